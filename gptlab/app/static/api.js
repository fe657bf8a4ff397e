// Requests to the server under this page. Whatever goes wrong becomes an Error in plain words.

export const get = (path) => ask(path);

export const post = (path, content, signal) => ask(path, content, signal);

async function ask(path, content, signal) {
  return (await answer(path, content, signal)).json();
}

async function answer(path, content, signal) {
  const how = content === undefined ? {} : {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(content),
  };
  let found;
  try {
    found = await fetch(path, { ...how, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is it still running in its terminal?");
  }
  if (!found.ok) {
    const told = await found.json().catch(() => ({}));
    const error = new Error(told.error ?? `The server answered ${found.status}.`);
    throw Object.assign(error, { status: found.status });
  }
  return found;
}

// Calls take(events) with what has come, until all has; to stop, abort the signal.
export async function stream(path, content, signal, take) {
  const reader = (await answer(path, content, signal)).body.getReader();
  const decoder = new TextDecoder();
  let rest = "", ended = false;
  for (;;) {
    const { done, value } = await reader.read();
    signal?.throwIfAborted(); // what came before may have been read already
    if (done) break;
    const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = lines.pop();
    const events = lines.map((line) => JSON.parse(line));
    const failure = events.find((event) => event.error);
    if (failure) throw new Error(failure.error);
    ended ||= events.some((event) => event.event === "end");
    take(events);
  }
  if (!ended) throw new Error("The server broke off in the middle.");
}

export const missing = (error) => error.status === 404;

export const stopped = (error) => error.name === "AbortError";
