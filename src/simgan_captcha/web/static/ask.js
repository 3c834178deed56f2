"use strict";
// What the server answers; or an error that says in words for people why it does not.

async function ask(address, options) {
  let reply;
  try {
    reply = await fetch(address, options);
  } catch {
    throw new Error("the server does not answer; is it running?");
  }
  // A proxy may answer in the server's place, with a page of its own.
  const answer = await reply.json().catch(() => null);
  if (answer === null || !reply.ok) {
    throw new Error(answer?.detail ?? `expected JSON, got a page of status ${reply.status}; load this page again`);
  }
  return answer;
}
