/* Propend: page, track, identify, consent; kept in localStorage until taken; a beacon on leave. */
(function (w, d) {
  var s = d.currentScript, q = w.propend || [], K = "propend", L;
  try { L = w.localStorage; } catch (e) {}
  var url = (s && s.getAttribute("data-host")) || "", key = (s && s.getAttribute("data-key")) || "";
  function get(k, v) { try { return JSON.parse(L.getItem(K + k)) || v; } catch (e) { return v; } }
  function set(k, v) { try { L.setItem(K + k, JSON.stringify(v)); } catch (e) {} }
  function id() {
    if (w.crypto && crypto.randomUUID) return crypto.randomUUID();
    return Date.now().toString(36) + Math.random().toString(36).slice(2) + Math.random().toString(36).slice(2);
  }
  var me = get("me", null) || { a: id(), u: null, ok: null };
  set("me", me);
  var box = get("box", []), busy = false, wait = 500, timer = 0, last = get("s", 0), ses = get("sid", "");
  function session() {
    var now = Date.now();
    if (!ses || now - last > 18e5) { ses = id(); set("sid", ses); }
    last = now; set("s", now);
    return ses;
  }
  function allowed() {
    if (me.ok !== null) return me.ok;
    return !(w.navigator.globalPrivacyControl || w.navigator.doNotTrack === "1");
  }
  function track(type, p) {
    if (!allowed()) return;
    p = p || {};
    var e = { id: id(), type: type, anonymous: me.a, time: new Date().toISOString(), session: session(), properties: {} };
    if (me.u) e.user = me.u;
    for (var k in p) {
      if (/^(item|value|quantity|price|text|channel|lines|traits)$/.test(k)) e[k] = p[k]; else e.properties[k] = p[k];
    }
    e.properties.url = location.origin + location.pathname;
    box.push(e);
    if (box.length > 500) box.shift();
    set("box", box);
    clearTimeout(timer); timer = setTimeout(send, 200);
  }
  function done(part) {
    var ids = {};
    part.forEach(function (e) { ids[e.id] = 1; });
    box = box.filter(function (e) { return !ids[e.id]; });
    set("box", box);
  }
  var to = url + "/v1/events?key=" + encodeURIComponent(key);
  function body(n) { return new Blob([JSON.stringify({ events: box.slice(0, n), sent: new Date().toISOString() })]); }
  function send() {
    if (busy || !box.length) return;
    busy = true;
    var part = box.slice(0, 50), b = body(50);
    fetch(to, { method: "POST", keepalive: b.size < 3e4 && wait < 501, body: b }).then(function (r) {
      busy = false;
      if (r.ok || (r.status < 500 && r.status !== 429 && r.status !== 408)) { done(part); wait = 500; if (box.length) send(); }
      else again();
    }, function () { busy = false; again(); });
  }
  function again() { wait = Math.min(6e4, wait * 2); setTimeout(send, wait); }
  function leave() {
    if (d.visibilityState !== "hidden" || !box.length || !w.navigator.sendBeacon) return;
    for (var n = 50; n && !w.navigator.sendBeacon(to, body(n)); n >>= 1);
  }
  d.addEventListener("visibilitychange", leave);
  var api = {
    page: function (p) { track("page", Object.assign({ title: d.title, referrer: d.referrer }, p)); },
    track: track,
    identify: function (user, traits) { me.u = String(user); set("me", me); track("identify", { traits: traits || {} }); },
    consent: function (ok) { me.ok = !!ok; set("me", me); if (!ok) { box = []; set("box", box); } },
    reset: function () { me = { a: id(), u: null, ok: me.ok }; set("me", me); ses = ""; },
    push: function (c) { api[c[0]].apply(null, c.slice(1)); }
  };
  w.propend = api;
  q.forEach(api.push);
  send();
})(window, document);
