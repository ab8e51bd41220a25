const amplitude = require("@amplitude/analytics-node");
(async () => {
  await amplitude.init("key", { serverUrl: process.argv[2] + "/2/httpapi", flushIntervalMillis: 100 }).promise;
  const sent = [];
  for (let n = 0; n < 10; n++) sent.push(amplitude.track("Product Viewed", { product_id: `p${n}` }, { user_id: `user-${n}` }).promise);
  sent.push(amplitude.identify(new amplitude.Identify().set("country", "DE"), { user_id: "user-0", device_id: "device-0" }).promise);
  await amplitude.flush().promise;
  const results = await Promise.all(sent);
  process.exit(results.every((r) => r.code === 200) ? 0 : 1);
})();
