const Mixpanel = require("mixpanel");
const url = new URL(process.argv[2]);
const client = Mixpanel.init("key", { host: url.host, protocol: "http" });
let left = 12;
const done = (error) => {
  if (error) { console.error(error); process.exit(1); }
  if (--left === 0) process.exit(0);
};
client.people.set("u0", { country: "DE" }, done);
client.alias("u0", "a0", done);
for (let n = 0; n < 10; n++) client.track("Product Viewed", { distinct_id: `u${n}`, product_id: `p${n}` }, done);
