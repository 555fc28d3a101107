// Let the page answer its reader, then go on: sooner than a timer would.
const channel = new MessageChannel(), waiting = [];
channel.port1.onmessage = () => waiting.shift()();

export function turn() {
  return new Promise((resolve) => {
    waiting.push(resolve);
    channel.port2.postMessage(null);
  });
}

// A turn for the page whenever 12 ms are over; what was stopped ends here.
export function pauses(signal) {
  let since = performance.now();
  return async () => {
    signal.throwIfAborted();
    if (performance.now() - since < 12) return;
    await turn();
    signal.throwIfAborted();
    since = performance.now();
  };
}
