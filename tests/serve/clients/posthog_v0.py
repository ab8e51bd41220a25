import sys
from posthog import Posthog

client = Posthog("key", host=sys.argv[1], gzip=True)
for n in range(10):
    client.capture("Product Viewed", distinct_id=f"u{n}", properties={"product_id": f"p{n}"})
client.capture(
    "$identify", distinct_id="u0", properties={"$anon_distinct_id": "a0", "$set": {"country": "DE"}}
)
client.flush()
client.shutdown()
