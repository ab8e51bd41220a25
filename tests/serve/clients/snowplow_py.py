import sys
from snowplow_tracker import Emitter, Tracker, Subject, StructuredEvent

host = sys.argv[1].removeprefix("http://")
emitter = Emitter(host, protocol="http", batch_size=5)
tracker = Tracker("t", emitter, app_id="key")
for n in range(10):
    subject = Subject()
    subject.set_user_id(f"u{n}")
    tracker.track(
        StructuredEvent(
            category="shop", action="Product Viewed", label=f"p{n}", event_subject=subject
        )
    )
tracker.flush()
