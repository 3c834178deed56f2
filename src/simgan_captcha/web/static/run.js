"use strict";
// Follows the run: progress arrives as events; changed sections are fetched again.

const PARTS = { results: "results", curves: "curves", sheets: "sheets", diagnosis: "results" };
const BETWEEN_FETCHES = 4000; // milliseconds: the server draws the curves, maybe while it trains

const stages = document.getElementById("stages");
const announced = document.getElementById("announced");
let latest = null;
let fetching = false;

function showProgress(status) {
  for (const stage of status.stages) {
    const row = stages.querySelector(`[data-stage="${stage.stage}"]`);
    if (!row) continue;
    if (row.dataset.state !== stage.state) {
      announced.textContent = `${stage.title}: ${stage.state}.`;
      row.dataset.state = stage.state;
    }
    row.querySelector(".state").textContent = stage.state;
    row.querySelector(".said").textContent = stage.said;
    const bar = row.querySelector("progress");
    if (stage.steps) {
      row.querySelector(".count").textContent =
        `${stage.step.toLocaleString("en")} of ${stage.steps.toLocaleString("en")} steps`;
      bar.max = stage.steps;
      bar.value = stage.step;
    } else {
      bar.value = stage.state === "done" ? 1 : 0;
    }
  }
  document.getElementById("use").hidden = !status.finished;
  if (status.finished) announced.textContent = "The run is finished.";
}

function stale() {
  return Object.entries(PARTS).filter(
    ([id, version]) => document.getElementById(id).dataset.version !== latest.versions[version],
  );
}

async function refresh() {
  if (fetching || latest === null || document.hidden || !stale().length) return;
  fetching = true;
  try {
    const reply = await fetch("run");
    if (!reply.ok) throw new Error(reply.statusText);
    const page = new DOMParser().parseFromString(await reply.text(), "text/html");
    for (const [id] of stale()) {
      const slider = document.getElementById("step");
      const [chosen, atEnd] = [slider?.value, slider?.value === slider?.max];
      document.getElementById(id).replaceWith(document.adoptNode(page.getElementById(id)));
      // Keep an earlier step that the user has chosen.
      if (id === "sheets" && slider && !atEnd) showStep(chosen);
    }
  } catch {
    // Keep the page as it is; an event arrives when the server is back.
  }
  setTimeout(() => {
    fetching = false;
    refresh();
  }, BETWEEN_FETCHES);
}

function showStep(index) {
  const slider = document.getElementById("step");
  if (!slider) return;
  slider.value = index;
  const step = slider.dataset.steps.split(" ")[Number(slider.value)];
  slider.setAttribute("aria-valuetext", `step ${step}`);
  document.getElementById("step-shown").textContent = Number(step).toLocaleString("en");
  document.getElementById("sheet").src = `api/run/sheets/${step}`;
}

document.addEventListener("input", (event) => {
  if (event.target.id === "step") showStep(event.target.value);
});

const events = new EventSource("api/run/events");
events.addEventListener("message", (event) => {
  latest = JSON.parse(event.data);
  showProgress(latest);
  refresh();
});
events.addEventListener("error", () => {
  announced.textContent =
    events.readyState === EventSource.CLOSED
      ? "The server closed the connection; perhaps too many pages are open. Reload this page."
      : "The server does not answer. This page updates when it does.";
});
events.addEventListener("open", () => {
  announced.textContent = "";
});
document.addEventListener("visibilitychange", refresh);
