import sys
from ga4mp import GtagMP

client = GtagMP(api_secret="key", measurement_id="G-1", client_id="100.200")
client._base_domain = sys.argv[1] + "/mp/collect"
for n in range(10):
    event = client.create_new_event(name="view_item")
    event.set_event_param("item_id", f"p{n}")
    client.send(events=[event])
