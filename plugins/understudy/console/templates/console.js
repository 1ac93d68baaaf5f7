"use strict";
(() => {
  const EVERY = 3000, GIVE_UP = 8000;
  const main = document.getElementById("models");
  const freshness = document.getElementById("freshness");
  const trouble = document.getElementById("trouble");
  const raw = new Map();        // part -> the HTML as the server sent it
  let skew = 0;                 // the server's clock minus ours, in seconds: leases are the server's
  let heard = performance.now();
  let lost = false;

  const outer = (() => { try { return window.top !== window && window.top.document ? window.top : null; } catch { return null; } })();
  const parts = root => new Map([...root.querySelectorAll("[data-part]")].map(part => [part.dataset.part, part]));
  const shape = root => [...parts(root).keys()].join("\n") + [...root.querySelectorAll("article")].map(card => card.className).join();

  const ago = seconds => {
    const rest = Math.max(0, Math.round(seconds));
    if (rest < 60) return `${rest} s ago`;
    if (rest < 3600) return `${Math.floor(rest / 60)} min ago`;
    return rest < 86400 ? `${Math.floor(rest / 3600)} h ago` : `${Math.floor(rest / 86400)} d ago`;
  };

  function tick() {
    const now = Date.now() / 1000 + skew;
    const silent = (performance.now() - heard) / 1000;
    for (const moment of main.querySelectorAll("time[data-at]")) moment.lastElementChild.textContent = ago(now - moment.dataset.at);
    for (const lease of main.querySelectorAll(".lease")) {
      const left = Math.max(0, Math.floor(lease.dataset.until - Math.floor(now)));
      // Renewed or not: without the server nobody here knows.
      lease.firstElementChild.textContent = lost ? "unknown" : `${left} s`;
    }
    freshness.textContent = `Updated ${ago(silent)}`;
  }

  function remember(root) {
    raw.clear();
    for (const [name, part] of parts(root)) raw.set(name, part.innerHTML);
    skew = Number(root.querySelector("#state").dataset.now) - Date.now() / 1000;
    heard = performance.now();
  }

  function apply(html) {
    const fresh = document.createElement("template");
    fresh.innerHTML = html;
    const sent = fresh.content;
    if (shape(sent) === shape(main)) {
      const here = parts(main);
      for (const [name, part] of parts(sent)) if (raw.get(name) !== part.innerHTML) replace(here.get(name), part.innerHTML);
      remember(sent);
    } else {
      remember(sent);
      replace(main, html);
    }
  }

  function replace(element, html) {
    const scroll = document.scrollingElement.scrollTop;
    const name = control => control.getAttribute("href") ?? control.dataset.wayBack;
    const focused = element.contains(document.activeElement) ? name(document.activeElement) : null;
    element.innerHTML = html;
    if (focused) [...element.querySelectorAll("a, button")].find(control => name(control) === focused)?.focus({ preventScroll: true });
    document.scrollingElement.scrollTop = scroll;
  }

  function complain(text, signIn) {
    lost = true;
    trouble.replaceChildren(text);
    if (signIn) {
      const link = Object.assign(document.createElement("a"), { href: "./", textContent: "Sign in again." });
      trouble.append(" ", link);
    }
    trouble.hidden = false;
    main.classList.add("stale");
  }

  async function refresh() {
    try {
      const answer = await fetch("fragment", { headers: { Accept: "text/html" }, signal: AbortSignal.timeout(GIVE_UP), cache: "no-store" });
      const html = await answer.text();
      if (answer.ok) {
        apply(html);
        lost = false;
        trouble.hidden = true;
        main.classList.remove("stale");
      } else if (answer.status === 401 || answer.status === 403) {
        complain("You are signed out or may no longer read this. What you see is out of date.", true);
      } else {
        const said = new DOMParser().parseFromString(html, "text/html").querySelector("#message .text");
        complain(`What you see is out of date. ${said ? said.textContent : `The server answered ${answer.status}.`}`);
      }
    } catch {
      complain("The server does not answer. What you see is out of date.");
    }
    tick();
  }

  async function keepFresh() {
    if (!document.hidden) await refresh();
    setTimeout(keepFresh, EVERY);
  }

  // Airflow shows this page in a frame that may neither open windows nor leave; the page around it may do both.
  function follow(event) {
    const link = event.target.closest?.("a[href]");
    if (!link || link.getAttribute("href").startsWith("#") || event.button > 1) return;
    event.preventDefault();
    const away = link.target === "_blank" || event.ctrlKey || event.metaKey || event.shiftKey || event.button === 1;
    const twin = Object.assign(outer.document.createElement("a"), { href: link.href, target: away ? "_blank" : "_self", rel: "noopener" });
    twin.click();
  }

  function wearAirflowsTheme() {
    const root = outer.document.documentElement;
    const copy = () => {
      const theme = ["dark", "light"].find(name => root.classList.contains(name));
      if (theme) document.documentElement.dataset.theme = theme;
    };
    copy();
    new MutationObserver(copy).observe(root, { attributes: true, attributeFilter: ["class"] });
  }

  if (outer) {
    document.addEventListener("click", follow);
    document.addEventListener("auxclick", follow);
    wearAirflowsTheme();
  }
  document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
  remember(main);
  tick();
  setInterval(tick, 1000);
  setTimeout(keepFresh, EVERY);
})();
