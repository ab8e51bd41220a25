import sys
import mixpanel

url = sys.argv[1]
consumer = mixpanel.BufferedConsumer(
    events_url=url + "/track",
    people_url=url + "/engage",
    import_url=url + "/import",
    groups_url=url + "/groups",
)
client = mixpanel.Mixpanel("key", consumer=consumer)
for n in range(10):
    client.track(f"u{n}", "Product Viewed", {"product_id": f"p{n}"})
client.people_set("u0", {"country": "DE"})
client.track("u0", "Hover", {"$device_id": "a0", "$user_id": "u0"})
consumer.flush()
