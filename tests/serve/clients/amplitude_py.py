import sys
from amplitude import Amplitude, BaseEvent, EventOptions, Identify

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
client.identify(
    Identify().set("country", "DE"), EventOptions(user_id="user-0", device_id="device-0")
)
client.flush()
client.shutdown()
