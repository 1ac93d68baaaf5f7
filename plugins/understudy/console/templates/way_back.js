"use strict";
(() => {
  const dialog = document.getElementById("way-back");
  const part = name => document.getElementById(`way-back-${name}`);
  const form = dialog.querySelector("form"), submit = form.querySelector("[type=submit]");
  let model = "", key = "", asked = 0;

  const element = (name, text, ...inside) => {
    const made = document.createElement(name);
    if (text) made.textContent = text;
    made.append(...inside);
    return made;
  };
  const seconds = value => `${Number(value).toFixed(value < 10 ? 2 : 0)} s`;
  const words = name => name.replaceAll("_", " ");

  async function ask(body) {
    const headers = { "Content-Type": "application/json", Accept: "application/json", "Idempotency-Key": key };
    try {
      const answer = await fetch(`rollback/${encodeURIComponent(model)}`, { method: "POST", headers, body: JSON.stringify(body), cache: "no-store" });
      const told = await answer.json();
      if (answer.ok) return { told };
      if (answer.status === 401 || answer.status === 403) return { problem: "You are signed out or may not trigger the DAG rollback. Nothing was changed." };
      return { problem: told.error?.message ?? `The server refused it (${answer.status}).` };
    } catch {
      return { problem: `The server does not answer. Use the command: understudy rollback ${model} --reason "…"` };
    }
  }

  const request = reason => {
    const kind = part("incident").value, version = part("version").value.trim();
    return { reason: kind ? `${kind}: ${reason}` : reason, ...(version ? { target_version: version } : {}) };
  };

  async function showPlan() {
    const mine = ++asked;
    part("plan").replaceChildren(element("p", "Looking at the way back…"));
    const { told, problem } = await ask({ ...request("The plan is asked for."), dry_run: true });
    if (mine !== asked) return;
    if (problem) {
      const all = "A rollback is possible all the same: nobody is exposed any more from its first moment, whatever else is out of reach.";
      part("plan").replaceChildren(element("p", `The plan cannot be shown. ${problem}`), element("p", all));
      return;
    }
    const recipe = told.recipe, who = told.consumers.map(item => (item.contact ? `${item.name} (${item.contact})` : item.name));
    const facts = [
      ["Recipe", `${words(recipe.kind)}. ${recipe.when} ${told.told_by}`],
      ["Steps", recipe.steps.join(", ")],
      ["Takes", `about ${recipe.seconds} s; nobody is exposed from its first step on`],
      ["Users", recipe.users_notice],
      ["Told", who.length ? who.join(", ") : "nobody is known to use its answers"],
      ["Runbook", recipe.runbook],
    ];
    const list = element("dl");
    list.className = "facts";
    list.append(...facts.map(([name, text]) => element("div", "", element("dt", name), element("dd", text))));
    const target = element("p", `Version ${told.target} will serve everybody; version ${told.current} is champion now.`);
    target.className = "headline";
    const why = element("p", told.why);
    why.className = "quiet";
    part("plan").replaceChildren(target, why, list);
  }

  function showResult(told) {
    const remarks = [...(told.problems ?? []), ...Object.values(told.found ?? {}).map(found => found.note).filter(Boolean)];
    const lines = [
      element("p", `Version ${told.target} serves everybody again. Exposure was zero after ${seconds(told.seconds.zero_exposure)}, everything was verified after ${seconds(told.objectives.duration.measured)}.`),
      ...remarks.map(remark => element("p", remark)),
    ];
    lines[0].className = "headline";
    const steps = element("table", "", element("thead", "", element("tr", "", element("th", "Step"), element("th", "Done after"))));
    const rows = told.recipe.steps.map(name => element("tr", "", element("td", name), element("td", seconds(told.seconds[name]))));
    steps.append(element("tbody", "", ...rows));
    const unit = { duration: "s", zero_within: "s", accuracy: "", impact: "% of units" };
    const met = Object.entries(told.objectives).map(([name, found]) =>
      `${words(name)} ${found.measured} ${unit[name] ?? ""} of ${found.objective}: ${found.met ? "met" : "MISSED"}`.replaceAll("  ", " "));
    const objectives = element("p", `Objectives: ${met.join("; ")}.`);
    objectives.className = "quiet small";
    part("result").replaceChildren(...lines, steps, objectives);
  }

  async function carryOut(event) {
    event.preventDefault();
    submit.disabled = true;
    part("result").replaceChildren(element("p", "Rolling back. Exposure goes to zero first…"));
    const { told, problem } = await ask(request(part("reason").value.trim()));
    submit.disabled = false;
    if (problem) {
      part("result").replaceChildren(element("p", problem));
      return;
    }
    showResult(told);
    part("plan").replaceChildren();
    part("asked").hidden = submit.hidden = true;
    part("close").focus();
  }

  function open(name) {
    model = name;
    key = [...crypto.getRandomValues(new Uint8Array(16))].map(byte => byte.toString(16).padStart(2, "0")).join("");
    form.reset();
    part("title").textContent = `Roll back ${name}`;
    part("result").replaceChildren();
    part("asked").hidden = submit.hidden = false;
    dialog.showModal();
    part("reason").focus();
    showPlan();
  }

  document.addEventListener("click", event => {
    const button = event.target.closest?.("button[data-way-back]");
    if (button) open(button.dataset.wayBack);
  });
  form.addEventListener("submit", carryOut);
  for (const name of ["incident", "version"]) part(name).addEventListener("change", () => { if (part(name).checkValidity()) showPlan(); });
  part("close").addEventListener("click", () => dialog.close());
})();
