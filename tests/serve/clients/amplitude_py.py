import sys
from amplitude import Amplitude, BaseEvent

client = Amplitude("key")
client.configuration.server_url = sys.argv[1] + "/2/httpapi"
for n in range(10):
    client.track(
        BaseEvent(
            event_type="Product Viewed",
            user_id=f"user-{n}",
            event_properties={"product_id": f"p{n}"},
        )
    )
client.flush()
client.shutdown()
