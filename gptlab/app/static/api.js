// Requests to this server. Every failure becomes an Error with a message for the reader.

export const get = (path) => requestJson(path);

export const post = (path, body, signal) => requestJson(path, body, signal);

async function requestJson(path, body, signal) {
  return (await request(path, body, signal)).json();
}

async function request(path, body, signal) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
  };
  let response;
  try {
    response = await fetch(path, { ...options, signal });
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new Error("The server does not respond. Is it still running in its terminal?");
  }
  if (!response.ok) {
    const { error } = await response.json().catch(() => ({}));
    throw Object.assign(new Error(error ?? `The server responded with status ${response.status}.`),
      { status: response.status });
  }
  return response;
}

// Call onEvents(events) with each batch of JSON lines. Abort the signal to stop.
export async function stream(path, body, signal, onEvents) {
  const reader = (await request(path, body, signal)).body.getReader();
  const decoder = new TextDecoder();
  let incomplete = "", ended = false;
  for (;;) {
    const { done, value } = await reader.read();
    signal?.throwIfAborted(); // data may have been read before the abort
    if (done) break;
    const lines = (incomplete + decoder.decode(value, { stream: true })).split("\n");
    incomplete = lines.pop();
    const events = lines.map((line) => JSON.parse(line));
    const failure = events.find((event) => event.error);
    if (failure) throw new Error(failure.error);
    ended ||= events.some((event) => event.event === "end");
    onEvents(events);
  }
  if (!ended) throw new Error("The connection ended before the text was complete.");
}

export const isNotFound = (error) => error.status === 404;

export const isAbort = (error) => error.name === "AbortError";
