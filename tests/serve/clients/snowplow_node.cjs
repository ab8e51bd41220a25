const { newTracker, buildStructEvent } = require("@snowplow/node-tracker");
const url = new URL(process.argv[2]);
const tracker = newTracker({ namespace: "t", appId: "key", encodeBase64: false }, { endpoint: process.argv[2], eventMethod: "post", bufferSize: 1 });
for (let n = 0; n < 10; n++) { tracker.setUserId(`u${n}`); tracker.track(buildStructEvent({ category: "shop", action: "Product Viewed", label: `p${n}` })); }
tracker.flush();
setTimeout(() => process.exit(0), 2500);
