import sys
import time
import mixpanel

url = sys.argv[1]
consumer = mixpanel.Consumer(
    events_url=url + "/track",
    people_url=url + "/engage",
    import_url=url + "/import",
    groups_url=url + "/groups",
)
client = mixpanel.Mixpanel("key", consumer=consumer)
for n in range(10):
    client.import_data(
        "key",
        f"u{n}",
        "Product Viewed",
        int(time.time()) - 60,
        {"product_id": f"p{n}"},
        api_secret="secret",
    )
