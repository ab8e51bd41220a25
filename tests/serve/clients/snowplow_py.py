import sys
from snowplow_tracker import (
    Emitter,
    SelfDescribing,
    SelfDescribingJson,
    StructuredEvent,
    Subject,
    Tracker,
)

host = sys.argv[1].removeprefix("http://")
emitter = Emitter(host, protocol="http", batch_size=5)
tracker = Tracker("t", emitter, app_id="key")
for n in range(10):
    subject = Subject()
    subject.set_user_id(f"u{n}")
    subject.set_domain_user_id(f"a{n}")
    said = SelfDescribingJson("iglu:com.shop/view_item/jsonschema/1-0-0", {"item_id": f"p{n}"})
    tracker.track(SelfDescribing(said, event_subject=subject))
tracker.track(StructuredEvent(category="shop", action="Hover", label="p0", event_subject=subject))
tracker.flush()
