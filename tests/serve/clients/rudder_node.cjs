const Rudder = require("@rudderstack/rudder-sdk-node");
const client = new (Rudder.default || Rudder)("key", { dataPlaneUrl: process.argv[2], flushAt: 5, gzip: true });
for (let n = 0; n < 10; n++) client.track({ userId: `u${n}`, event: "Product Viewed", properties: { product_id: `p${n}` } });
client.identify({ userId: "u0", anonymousId: "a0", traits: { country: "DE" } });
client.flush().catch(() => {}).then(() => setTimeout(() => process.exit(0), 1500));
