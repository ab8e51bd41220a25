const { Analytics } = require("@segment/analytics-node");
const client = new Analytics({ writeKey: "key", host: process.argv[2] });
for (let n = 0; n < 10; n++) client.track({ userId: `u${n}`, event: "Product Viewed", properties: { product_id: `p${n}` } });
client.identify({ userId: "u0", anonymousId: "a0", traits: { country: "DE" } });
client.closeAndFlush().then(() => process.exit(0));
