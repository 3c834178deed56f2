"use strict";
// The JSON reply of the server, or an Error with a message for people.

async function ask(address, options) {
  let reply;
  try {
    reply = await fetch(address, options);
  } catch {
    throw new Error("the server does not answer; is it running?");
  }
  // A proxy may reply with its own HTML page instead.
  const answer = await reply.json().catch(() => null);
  if (answer === null || !reply.ok) {
    throw new Error(answer?.detail ?? `expected JSON, got a page with status ${reply.status}; reload this page`);
  }
  return answer;
}
