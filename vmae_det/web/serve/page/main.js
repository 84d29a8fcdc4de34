// The page of `vmae-det serve`: sends videos, and shows their jobs.
import { showJobs } from './jobs.js';

const element = (id) => document.getElementById(id);
const uploads = new Map(); // of this page, not yet accepted by the server
let server = null, jobs = [], timer = 0, nextUpload = 1;

async function ask(path, options) {
  const response = await fetch(path, options);
  const content = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(content.error || `the server answered ${response.status}`);
  return content;
}

function complain(text) {
  element('trouble').textContent = text;
  element('trouble').hidden = !text;
}

function options() {
  const isTimed = server.task === 'detect' || element('timed').checked;
  return isTimed ? { every: element('every').value, threshold: element('threshold').value } : {};
}

function areOptionsValid() {
  return ['every', 'threshold'].every((id) => element(id).reportValidity());
}

// ---------------------------------------------------------------- jobs

async function refresh() {
  clearTimeout(timer);
  let isReached = true;
  try {
    const before = new Map(jobs.map((job) => [job.id, job.state]));
    ({ jobs } = await ask('api/jobs'));
    for (const job of jobs) {
      if (['done', 'failed'].includes(job.state) && before.has(job.id) && before.get(job.id) !== job.state) {
        element('spoken').textContent = `${job.name}: ${job.state}`;
      }
    }
  } catch (error) {
    isReached = false;
    element('facts').textContent = `The server does not answer: ${error.message}`;
  }
  if (isReached && server) describeServer();
  draw();
  const isBusy = jobs.some((job) => ['receiving', 'queued', 'running'].includes(job.state));
  timer = setTimeout(refresh, isBusy ? 700 : 4000);
}

function draw() {
  const sent = [...uploads.values()].reverse();
  // A video that this page sends is a job of the server too, in the state `receiving`.
  const hidden = new Set(sent.map((upload) => upload.name));
  const others = jobs.filter((job) => job.state !== 'receiving' || !hidden.has(job.name));
  element('nobody').hidden = sent.length + others.length > 0;
  showJobs(element('jobs'), [...sent, ...others], remove);
}

async function remove(job) {
  try {
    if (job.abort) job.abort();
    else await ask(`api/jobs/${job.id}`, { method: 'DELETE' });
  } catch (error) {
    complain(error.message);
  }
  refresh();
}

// ---------------------------------------------------------------- sending

const waiting = [];
let isSending = false;

function send(files) {
  complain('');
  if (!areOptionsValid()) return;
  for (const file of files) {
    if (file.size > server.max_bytes) {
      complain(`${file.name}: larger than ${megabytes(server.max_bytes)}`);
      continue;
    }
    const upload = { id: `upload${nextUpload++}`, name: file.name, state: 'waiting', progress: null };
    upload.abort = () => {
      upload.request?.abort();
      uploads.delete(upload.id);
      draw();
    };
    uploads.set(upload.id, upload);
    waiting.push([upload, file, new URLSearchParams(options())]);
  }
  sendNext();
}

// One after another: each needs the full rate of the connection.
async function sendNext() {
  if (isSending) return;
  isSending = true;
  while (waiting.length) {
    const [upload, file, query] = waiting.shift();
    if (!uploads.has(upload.id)) continue;
    try {
      await post(upload, file, query);
    } catch (error) {
      complain(`${file.name}: ${error.message}`);
    }
    uploads.delete(upload.id);
    await refresh();
  }
  isSending = false;
}

// fetch() reports no progress of uploads.
function post(upload, file, query) {
  return new Promise((resolve, reject) => {
    const request = upload.request = new XMLHttpRequest();
    request.open('POST', `api/${server.task}?${query}`);
    request.setRequestHeader('Content-Type', 'application/octet-stream');
    request.setRequestHeader('X-File-Name', encodeURIComponent(file.name));
    request.responseType = 'json';
    request.upload.onprogress = (event) => {
      Object.assign(upload, { state: 'sending', progress: event.loaded / event.total });
      draw();
    };
    request.onload = () => {
      if (request.status === 202) resolve();
      else reject(new Error(request.response?.error || `the server answered ${request.status}`));
    };
    request.onerror = () => reject(new Error('the connection broke'));
    request.onabort = resolve;
    upload.state = 'sending';
    draw();
    request.send(file);
  });
}

async function sendAddress(event) {
  event.preventDefault();
  complain('');
  if (!areOptionsValid()) return;
  const content = Object.fromEntries(Object.entries(options()).map(([name, value]) => [name, Number(value)]));
  try {
    await ask(`api/${server.task}`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ url: element('url').value.trim(), ...content }),
    });
    element('url').value = '';
  } catch (error) {
    complain(error.message);
  }
  refresh();
}

// ---------------------------------------------------------------- start

function megabytes(bytes) {
  return bytes >= 2 ** 30 ? `${+(bytes / 2 ** 30).toFixed(1)} GiB` : `${+(bytes / 2 ** 20).toFixed(1)} MiB`;
}

function duration(seconds) {
  if (seconds >= 7200) return `${+(seconds / 3600).toFixed(1)} hours`;
  return seconds >= 120 ? `${+(seconds / 60).toFixed(1)} minutes` : `${+seconds.toFixed(1)} seconds`;
}

function describeServer() {
  const what = server.task === 'detect' ? 'detector' : 'classifier';
  element('facts').textContent = `${what} ${server.weights}, ${server.actions.length} classes`;
}

function prepare() {
  describeServer();
  const isClassifier = server.task === 'classify';
  element('limits').textContent = `At most ${megabytes(server.max_bytes)} and ${duration(server.max_seconds)} a video. `
    + `Results are deleted after ${duration(server.keep_seconds)}.`;
  const showOptions = () => {
    const isTimed = !isClassifier || element('timed').checked;
    element('every-label').hidden = element('threshold-label').hidden = !isTimed;
  };
  element('timed-label').hidden = !isClassifier;
  element('threshold').value = isClassifier ? 0.1 : 0.3;
  element('timed').onchange = showOptions;
  showOptions();
  const drop = element('drop');
  element('file').onchange = () => {
    send([...element('file').files]);
    element('file').value = '';
  };
  document.ondragover = (event) => event.preventDefault();
  document.ondrop = (event) => {
    event.preventDefault();
    drop.classList.remove('over');
    const files = [...event.dataTransfer.files];
    if (files.length) send(files);
  };
  document.ondragenter = () => drop.classList.add('over');
  document.ondragleave = (event) => event.relatedTarget || drop.classList.remove('over');
  element('address').onsubmit = sendAddress;
  window.onbeforeunload = (event) => {
    if (uploads.size) event.preventDefault();
  };
}

async function start() {
  try {
    server = await ask('api/server');
    prepare();
  } catch (error) {
    complain(error.message);
  }
  await refresh();
}

start();
