const { newTracker, buildSelfDescribingEvent, buildStructEvent } = require("@snowplow/node-tracker");
const url = new URL(process.argv[2]);
const tracker = newTracker({ namespace: "t", appId: "key", encodeBase64: false }, { endpoint: process.argv[2], eventMethod: "post", bufferSize: 1 });
for (let n = 0; n < 10; n++) { tracker.setUserId(`u${n}`); tracker.setDomainUserId(`a${n}`);
  tracker.track(buildSelfDescribingEvent({ event: { schema: "iglu:com.shop/view_item/jsonschema/1-0-0", data: { item_id: `p${n}` } } })); }
tracker.track(buildStructEvent({ category: "shop", action: "Hover", label: "p0" }));
tracker.flush();
setTimeout(() => process.exit(0), 2500);
