import sys
import rudderstack.analytics as analytics

client = analytics.Client("key", host=sys.argv[1], gzip=True)
for n in range(10):
    client.track(f"u{n}", "Product Viewed", {"product_id": f"p{n}"})
client.identify("u0", {"country": "DE"}, anonymous_id="a0")
client.flush()
client.join()
