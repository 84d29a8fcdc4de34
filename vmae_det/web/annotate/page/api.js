/* Requests to the server. */
const TIMEOUT = 30_000; // ms

/* `status` is 0 if there was no answer. */
export class RequestError extends Error {
  constructor(message, status = 0, answer = {}) {
    super(message);
    this.status = status;
    this.answer = answer;
  }
}

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { signal: AbortSignal.timeout(TIMEOUT), ...options });
    if (response.ok) return response;
  } catch {
    throw new RequestError("the server does not answer");
  }
  const answer = await response.json().catch(() => ({}));
  throw new RequestError(answer.error ?? answer.message ?? `the server answered ${response.status}`, response.status, answer);
}
async function get(path) {
  try {
    return await (await request(path)).json();
  } catch (error) {
    throw error instanceof RequestError ? error : new RequestError("the answer is incomplete");
  }
}
async function post(path, content) {
  const headers = { "Content-Type": "application/json" };
  const response = await request(path, { method: "POST", headers, body: JSON.stringify(content) });
  return response.json().catch(() => { throw new RequestError("the answer is incomplete"); });
}
const pathOf = (video) => `api/videos/${encodeURIComponent(video)}`;

export const client = crypto.getRandomValues(new Uint32Array(2)).join("-");
export const getDataset = () => get("api/dataset");
export const getVideo = (video) => get(`${pathOf(video)}?client=${client}`);
export const postPatch = (video, patch, new_people) => 
  post(`${pathOf(video)}/edits`, { client, edit: { name: "patch", patch }, new_people });
export const postProposals = (video) => post(`${pathOf(video)}/propose`, {});
export const getNext = (kind, video, second) =>
  get(`api/queue?kind=${kind}&after=${encodeURIComponent(`${video},${second}`)}`);
export const openEvents = (video) =>
  new EventSource(`api/events?client=${client}&video=${encodeURIComponent(video)}`);

/* Return the frames within `span` seconds of a keyframe: seconds from it, and a JPEG blob. */
export async function getClip(video, second, height, signal, span = 1) {
  const both = AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT)]);
  const response = await request(`${pathOf(video)}/clip?second=${second}&height=${height}&span=${span}`, { signal: both });
  const buffer = await response.arrayBuffer().catch(() => { throw new RequestError("the answer is incomplete"); });
  const view = new DataView(buffer), frames = [];
  for (let at = 0; at + 8 <= buffer.byteLength; ) {
    const size = view.getUint32(at, true), time = view.getFloat32(at + 4, true);
    frames.push({ time, jpeg: new Blob([new Uint8Array(buffer, at + 8, size)], { type: "image/jpeg" }) });
    at += 8 + size;
  }
  return { frames, bytes: buffer.byteLength };
}
