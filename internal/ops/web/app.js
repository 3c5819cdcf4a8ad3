// The pages are whole without this script. It keeps them up to date: the server sends what the page's
// template was given, and every element that names a part of it gets that part, as text.
"use strict";

(() => {
  const links = new Set(["href"]);

  function setAttribute(el, name, value) {
    if (links.has(name) && !/^\/(?!\/)/.test(value)) return; // only places of our own
    if (name === "aria-current" && !value) el.removeAttribute(name);
    else if (el.getAttribute(name) !== value) el.setAttribute(name, value);
  }

  // fill gives an element and what is in it its parts of data.
  function fill(el, data) {
    const { text, attr, each } = el.dataset;
    if (text !== undefined && data[text] !== undefined && el.textContent !== String(data[text])) el.textContent = data[text];
    for (const pair of attr ? attr.split(" ") : []) {
      const at = pair.lastIndexOf(":");
      setAttribute(el, pair.slice(0, at), String(data[pair.slice(at + 1)] ?? ""));
    }
    if (each !== undefined) return list(el, data[each] || []);
    const scope = el.classList.contains("chart") ? data.Chart : data;
    for (const child of el.children) fill(child, scope);
  }

  // list makes an element's children those of items, and keeps each that is there already.
  function list(el, items) {
    const template = el.querySelector(":scope > template");
    const known = new Map();
    for (const child of el.children) if (child !== template) known.set(child.dataset.key || String(known.size), child);
    const kept = new Set([template]);
    let place = template.nextElementSibling;
    items.forEach((item, i) => {
      const key = item.URL || item.Label || item.Name || String(i);
      let child = known.get(key);
      known.delete(key);
      if (!child) {
        child = template.content.firstElementChild.cloneNode(true);
        child.dataset.key = key;
      }
      fill(child, item);
      kept.add(child);
      if (child === place) place = place.nextElementSibling;
      else el.insertBefore(child, place);
    });
    for (const child of [...el.children]) if (!kept.has(child)) child.remove();
  }

  const live = document.getElementById("live");
  const hold = document.getElementById("hold");
  let held = false;
  let latest = null;

  function show() {
    const focused = document.activeElement;
    fill(document.querySelector("title"), latest);
    fill(document.body, latest);
    offerCopies();
    if (focused && focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
  }

  function say(words, tone) {
    if (live.textContent !== words) live.textContent = words;
    live.dataset.tone = tone;
  }

  const stream = document.body.dataset.stream;
  let source = null;

  // listen begins to listen, unless nobody looks: a browser has few connections for all its windows.
  function listen() {
    if (source || document.hidden) return;
    source = new EventSource(stream);
    source.onmessage = (event) => {
      latest = JSON.parse(event.data);
      if (held) return;
      show();
      say("Live", "good");
    };
    source.addEventListener("bye", () => say("The worker has stopped; as of", "bad"));
    source.onerror = () => {
      if (!held) say("No connection to the worker; as of", "bad");
      if (source.readyState !== EventSource.CLOSED) return; // it tries again by itself
      rest();
      setTimeout(listen, 10000);
    };
  }

  function rest() {
    source?.close();
    source = null;
  }

  hold.addEventListener("click", () => {
    held = !held;
    hold.setAttribute("aria-pressed", String(held));
    if (held) say("Held, as of", "odd");
    else if (latest) {
      show();
      say("Live", "good");
    }
  });

  function offerCopies() {
    if (!navigator.clipboard) return; // as without TLS, but for this machine's own pages
    for (const button of document.querySelectorAll("button.copy[hidden]")) button.hidden = false;
  }

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button.copy");
    if (!button) return;
    try {
      await navigator.clipboard.writeText(button.previousElementSibling.textContent);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Copy it by hand";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });

  offerCopies();
  if (stream && window.EventSource) {
    hold.hidden = false;
    document.addEventListener("visibilitychange", () => (document.hidden ? rest() : listen()));
    listen();
  }
})();
