const { jitsuAnalytics } = require("@jitsu/js");
(async () => {
  const client = jitsuAnalytics({ host: process.argv[2], writeKey: "key:secret", s2s: true, fetch: fetch });
  for (let n = 0; n < 10; n++) { await client.identify(`u${n}`, { country: "DE" }); await client.track("Product Viewed", { product_id: `p${n}` }); }
  setTimeout(() => process.exit(0), 1500);
})();
