// The list of jobs. Names are shown as text.

const LABELS = { html: 'Open result', csv: 'CSV', jsonl: 'JSON lines', mp4: 'Video', webm: 'Video' };
const rows = new Map(); // id -> {item, shown}
const classes = new Map(); // id -> rows of a classified video

function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/** Show jobs in a list. Items that did not change keep their elements, and so the focus. */
export function showJobs(list, jobs, remove) {
  const ids = new Set(jobs.map((job) => job.id));
  for (const [id, row] of rows) {
    if (!ids.has(id)) {
      row.item.remove();
      rows.delete(id);
    }
  }
  jobs.forEach((job, index) => {
    const { abort, request, ...facts } = job;
    const shown = JSON.stringify(facts);
    let row = rows.get(job.id);
    if (row === undefined) {
      row = { item: make('li'), shown: '' };
      rows.set(job.id, row);
    }
    if (row.shown !== shown) {
      const hadFocus = row.item.contains(document.activeElement) && document.activeElement.tagName === 'BUTTON';
      row.shown = shown;
      row.item.className = job.state;
      row.item.replaceChildren(...describe(job, remove));
      if (hadFocus) row.item.querySelector('button').focus();
    }
    if (list.children[index] !== row.item) list.insertBefore(row.item, list.children[index] ?? null);
  });
}

function describe(job, remove) {
  const isOver = ['done', 'failed', 'cancelled'].includes(job.state);
  const button = make('button', {
    type: 'button',
    textContent: isOver ? 'Delete' : 'Cancel',
    ariaLabel: `${isOver ? 'Delete' : 'Cancel'} ${job.name}`,
    onclick: () => remove(job),
  });
  const parts = [
    make('div', { className: 'row' },
      make('span', { className: 'name', textContent: job.name, title: job.name }),
      make('span', { className: 'state', textContent: stateText(job) }),
      button),
  ];
  if (!isOver && job.state !== 'waiting' && job.state !== 'queued') {
    const bar = make('progress', { max: 1, ariaLabel: `Progress of ${job.name}` });
    if (job.progress !== null) bar.value = job.progress;
    parts.push(bar);
  }
  if (job.error) parts.push(make('p', { className: 'error', textContent: job.error }));
  for (const text of job.warnings ?? []) parts.push(make('p', { className: 'warning', textContent: text }));
  if (job.results?.length) parts.push(links(job.results));
  const table = job.results?.find((result) => result.name.endsWith('_classes.jsonl'));
  if (table) parts.push(classTable(job.id, table.path));
  return parts;
}

function stateText(job) {
  const percent = job.progress === null ? '' : ` ${Math.round(100 * job.progress)} %`;
  if (job.state === 'queued') return job.position ? `queued, ${job.position} before it` : 'queued, next';
  if (job.state === 'done') return `done in ${(job.finished - job.started).toFixed(1)} s`;
  return ['running', 'sending', 'receiving'].includes(job.state) ? job.state + percent : job.state;
}

function links(results) {
  const isPage = (result) => result.name.endsWith('.html');
  const sorted = [...results].sort((a, b) => isPage(b) - isPage(a));
  return make('div', { className: 'links' }, ...sorted.map((result) => {
    const suffix = result.name.split('.').pop();
    const link = make('a', { href: result.path.slice(1), title: result.name });
    link.textContent = LABELS[suffix] ?? result.name;
    if (isPage(result)) Object.assign(link, { className: 'open', target: '_blank', rel: 'noopener' });
    else {
      link.download = result.name;
      if (result.name.match(/_(actions|timeline)\.mp4$/)) link.textContent = 'Overlay';
    }
    return isPage(result) ? link : make('span', {}, link, ` ${size(result.bytes)}`);
  }));
}

function size(bytes) {
  return bytes >= 1e6 ? `${(bytes / 1e6).toFixed(1)} MB` : `${Math.max(bytes / 1e3, 0.1).toFixed(1)} kB`;
}

/** The best classes of a video that was classified as a whole. */
function classTable(id, path) {
  const table = make('table');
  const fill = (best) => table.replaceChildren(...best.map(({ name, score }) => make('tr', {},
    make('td', { textContent: name }), make('td', { textContent: score.toFixed(3) }))));
  if (classes.has(id)) fill(classes.get(id));
  else {
    fetch(path.slice(1)).then((response) => response.json()).then((line) => {
      classes.set(id, line.classes.slice(0, 5));
      fill(classes.get(id));
    }).catch(() => {});
  }
  return table;
}
