import sys
import segment.analytics as analytics

client = analytics.Client("key", host=sys.argv[1], gzip=len(sys.argv) > 2)
for n in range(10):
    client.track(f"u{n}", "Product Viewed", {"product_id": f"p{n}"}, message_id=None)
client.identify("u0", {"country": "DE"}, anonymous_id="a0")
client.flush()
client.join()
