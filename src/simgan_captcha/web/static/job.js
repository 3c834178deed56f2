"use strict";
// Forms that start a command on the server, follow it, and may stop it.

const BETWEEN_STATES = 1000; // milliseconds
const JSON_TYPE = { "Content-Type": "application/json" };

function valuesOf(form) {
  const values = {};
  for (const field of form.elements) {
    if (!field.name) continue;
    if (field.type === "checkbox") values[field.name] = field.checked;
    else if (field.type === "number") values[field.name] = field.valueAsNumber;
    else values[field.name] = field.value;
  }
  return values;
}

function follows(form) {
  const { address, name, next } = form.dataset;
  const announced = document.querySelector('[role="status"]');
  const words = { working: `${name} has started.`, done: `${name} has ended.`, failed: `${name} has failed.`, none: "" };
  const button = form.querySelector('button[type="submit"]');
  let started = false;

  function show(status) {
    if (form.dataset.state !== status.state) announced.textContent = words[status.state];
    form.dataset.state = status.state;
    form.querySelector(".job-said").textContent = status.said;
    // Not disabled: the keyboard focus would be lost.
    button?.setAttribute("aria-disabled", String(status.state === "working"));
    if (started && next && status.begun && status.state === "working") location.href = next;
  }

  async function follow() {
    try {
      const status = await ask(address);
      show(status);
      if (status.state !== "working") return;
    } catch (error) {
      form.querySelector(".job-said").textContent = `Progress unknown: ${error.message}`;
    }
    setTimeout(follow, BETWEEN_STATES);
  }

  function refuse(message) {
    show({ state: "failed", said: message });
    announced.textContent = `${name} has not started.`;
    const field = form.elements[/^(?:body\.)?(\w+):/.exec(message)?.[1]];
    field?.setAttribute("aria-invalid", "true");
    field?.focus();
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (form.dataset.state === "working") return;
    for (const field of form.elements) field.removeAttribute("aria-invalid");
    show({ state: "working", said: "" }); // so that a second click does nothing
    try {
      const status = await ask(address, { method: "POST", headers: JSON_TYPE, body: JSON.stringify(valuesOf(form)) });
      started = true;
      show(status);
      follow();
    } catch (error) {
      refuse(error.message);
    }
  });

  form.querySelector(".stop")?.addEventListener("click", async () => {
    try {
      show(await ask(address, { method: "DELETE" }));
      announced.textContent = `${name} was stopped.`;
    } catch (error) {
      announced.textContent = `Not stopped: ${error.message}`;
    }
  });

  if (form.dataset.state === "working") follow();
}

document.querySelectorAll("form.job").forEach(follows);
