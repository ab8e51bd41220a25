const { PostHog } = require("posthog-node");
const client = new PostHog("key", { host: process.argv[2] });
for (let n = 0; n < 10; n++) client.capture({ distinctId: `u${n}`, event: "Product Viewed", properties: { product_id: `p${n}` } });
client.capture({ distinctId: "u0", event: "$identify", properties: { $anon_distinct_id: "a0", $set: { country: "DE" } } });
client.shutdown().then(() => process.exit(0));
