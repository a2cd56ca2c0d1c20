/**
 * The page of `matching playground`: like and nope, watch the list re-rank here, compare it with the warehouse's.
 *
 * Belongs here: this page. Does not belong here: encoding and ranking, which are the bundle's own matching.js.
 */

const SHOWN = 20;
const SVG = 'http://www.w3.org/2000/svg';
const LIBRARIES = ['vendor/tf-core.min.js', 'vendor/tf-backend-cpu.min.js', 'vendor/tf-converter.min.js'];
const AGREED = 'of-age';
const at = (id) => document.getElementById(id);
const number = new Intl.NumberFormat('en');

/** What the visitor decided, oldest first; it never leaves this page but for the warehouse's answer. */
const history = [];
let answered = false;
let recommender, items, header, order, current, list = [];
let waiting; // the question to the warehouse that is under way

at('gate').addEventListener('cancel', (event) => event.preventDefault());
// A second Escape closes a dialog whatever a page says: then it is asked again.
at('gate').addEventListener('close', () => answered || at('gate').showModal());
at('leave').addEventListener('click', () => {
  answered = true;
  at('gate').close();
  at('left').hidden = false;
});
at('enter').addEventListener('click', enter);
at('reload').addEventListener('click', () => location.reload());
at('like').addEventListener('click', () => decide('like'));
at('nope').addEventListener('click', () => decide('nope'));
at('undo').addEventListener('click', undo);
at('restart').addEventListener('click', () => {
  history.length = 0;
  refresh('Started over.');
});
document.addEventListener('keydown', (event) => {
  if (at('main').hidden || event.metaKey || event.ctrlKey || event.altKey) return;
  const action = {ArrowLeft: () => decide('nope'), ArrowRight: () => decide('like'), Backspace: undo}[event.key];
  if (!action) return;
  event.preventDefault();
  action();
});
if (sessionStorage.getItem(AGREED)) start();
else at('gate').showModal();

function enter() {
  answered = true;
  sessionStorage.setItem(AGREED, 'yes'); // of this tab, so that a reload does not ask again
  at('gate').close();
  start();
}

async function start() {
  at('run').textContent = 'loading the model …';
  try {
    const session = await json(await fetch('session.json'));
    for (const source of LIBRARIES) await script(source);
    const matching = await import(new URL(`${session.bundle}matching.js`, location.href));
    await tf.setBackend('cpu');
    recommender = await matching.loadRecommender(session.bundle, tf);
    const found = await matching.loadItems(session.items);
    header = found.header;
    items = recommender.items(found);
  } catch (error) {
    at('run').textContent = '';
    tell(error.name === 'RunMismatchError'
      ? `These items were encoded by another model and cannot be ranked with this one: reload. (${error.message})`
      : `The playground cannot start: ${error.message}`);
    return;
  }
  order = spread();
  at('run').textContent = `model run ${recommender.runId} · ${recommender.weights} weights`;
  at('deck-size').textContent = number.format(items.size);
  at('main').hidden = false;
  refresh();
  at('card').focus({preventScroll: true});
}

function decide(decision) {
  if (current === undefined) return;
  const title = header.titles[current];
  history.push({id: items.ids[current], row: current, decision});
  refresh(`${decision === 'like' ? 'Liked' : 'Noped'} ${title}.`);
}

function undo() {
  if (history.length) refresh(`Took back ${header.titles[history.pop().row]}.`);
}

/** Encode, rank, show, then ask the warehouse. */
function refresh(said = '') {
  const started = performance.now();
  const user = recommender.encodeUser(told(), items);
  const {places, max_per_maker: maxPerMaker, max_per_performer: maxPerPerformer} = header.diversity;
  list = recommender.rank(user, items, {limit: SHOWN, places, maxPerMaker, maxPerPerformer});
  at('browser-time').textContent = milliseconds(performance.now() - started);
  at('browser-note').textContent = user.isPriorOnly
    ? 'Nothing known of you yet: what is popular.'
    : `From your ${user.events} ${user.events === 1 ? 'decision' : 'decisions'}, computed on this device.`;
  showHistory();
  showCard();
  showList(at('browser'), list.map(({rank, id, row}) => ({rank, id, row, title: header.titles[row], from: makerOf(row)})));
  ask(said);
}

/** Ids of one kind of decision, newest first. */
function ids(decision) {
  return history.filter((event) => event.decision === decision).map((event) => event.id).reverse();
}

/**
 * The history as the warehouse is told of it: likes and nopes without moments, taken in turn. An app that knows the
 * moments gives them to encodeUser; here both sides must have read the same.
 */
function told() {
  const [liked, noped] = [ids('like'), ids('nope')];
  return Array.from({length: Math.max(liked.length, noped.length)}, (_, k) => [
    {id: liked[k], decision: 'like'},
    {id: noped[k], decision: 'nope'},
  ]).flat().filter(({id}) => id !== undefined);
}

async function ask(said) {
  waiting?.abort();
  const mine = waiting = new AbortController();
  at('warehouse').classList.add('stale');
  const started = performance.now();
  let answer;
  try {
    answer = await json(await fetch('api/recommend', {
      method: 'POST',
      headers: {'Content-Type': 'application/json'},
      body: JSON.stringify({liked: ids('like'), noped: ids('nope'), limit: SHOWN}),
      signal: mine.signal,
    }));
  } catch (error) {
    if (!mine.signal.aborted) disagree(`The warehouse did not answer: ${error.message}`);
    return;
  }
  if (mine.signal.aborted) return;
  if (answer.run_id !== recommender.runId) {
    tell(`A new model is being served: reload. (run ${answer.run_id} instead of ${recommender.runId})`);
    disagree('Its list is of another model run, so it is not compared with yours.');
    return;
  }
  at('warehouse-time').textContent = milliseconds(performance.now() - started);
  at('warehouse').classList.remove('stale');
  const rows = answer.items.map(({rank, id, title, reason}) => {
    const row = items.rows.get(id);
    return {rank, id, row, title, from: row === undefined ? 'not in this deck' : makerOf(row), reason};
  });
  showList(at('warehouse'), rows);
  const here = new Set(list.map(({id}) => id));
  const there = new Set(rows.map(({id}) => id));
  mark(at('browser'), there, 'the warehouse');
  mark(at('warehouse'), here, 'your browser');
  const both = rows.filter(({id}) => here.has(id)).length;
  const outside = rows.filter(({row}) => row === undefined).length;
  at('agreement').textContent = `${both} of ${rows.length}`;
  at('agreement-text').textContent = 'items are in both lists';
  at('meter').style.width = `${rows.length ? (100 * both) / rows.length : 0}%`;
  at('warehouse-note').textContent = `From the same history, over the whole catalogue${
    outside ? `; ${outside} of its items are not in this deck` : ''}.`;
  at('facts').dataset.decisions = history.length; // both lists are of so many decisions
  at('said').textContent = `${said} ${both} of ${rows.length} items are in both lists.`;
}

function disagree(text) {
  at('warehouse').replaceChildren();
  at('warehouse-note').textContent = text;
  at('agreement').textContent = '–';
  at('agreement-text').textContent = 'agreement of the two lists';
  at('meter').style.width = '0';
  at('warehouse-time').textContent = '–';
  for (const dot of at('browser').querySelectorAll('.dot')) dot.classList.remove('both');
}

function tell(text) {
  at('banner-text').textContent = text;
  at('banner').hidden = false;
}

/** Undecided items, popular ones and others in turn, in an order of this visit. */
function spread() {
  const rows = Array.from({length: items.size}, (_, row) => row); // the file has the most popular first
  const half = Math.ceil(rows.length / 4);
  const shuffled = (part) => {
    for (let k = part.length - 1; k > 0; k -= 1) {
      const other = Math.floor(Math.random() * (k + 1));
      [part[k], part[other]] = [part[other], part[k]];
    }
    return part;
  };
  const [popular, others] = [shuffled(rows.slice(0, half)), shuffled(rows.slice(half))];
  const turns = popular.flatMap((row, k) => (k < others.length ? [row, others[k]] : [row]));
  return [...turns, ...others.slice(popular.length)];
}

function showCard() {
  const decided = new Set(history.map(({row}) => row));
  // Every other card is the best of the list; those between show something else, or one would like in circles.
  const fromList = history.length >= 2 && history.length % 2 === 0 && list.length > 0;
  current = fromList ? list[0].row : order.find((row) => !decided.has(row));
  const done = current === undefined;
  at('like').disabled = at('nope').disabled = done;
  at('why').textContent = done ? '' : fromList ? 'first in your list' : 'something to try';
  at('card').dataset.id = done ? '' : items.ids[current];
  at('title').textContent = done ? 'You have seen them all.' : header.titles[current];
  at('maker').textContent = done ? '' : makerOf(current);
  at('tags').replaceChildren(...(done ? [] : header.tags[current].slice(0, 5).map((tag) => element('li', '', header.tag_names[tag] ?? tag))));
  at('cover').replaceChildren(...(done ? [] : [cover(current)]));
}

function showHistory() {
  at('count').textContent = history.length ? `· ${history.length}` : '· nothing yet';
  at('undo').disabled = at('restart').disabled = !history.length;
  at('history').replaceChildren(...[...history].reverse().map(({row, decision}) => {
    const one = element('li', decision);
    const sign = element('b', '', decision === 'like' ? '♥' : '✕');
    sign.setAttribute('aria-hidden', 'true');
    const words = element('span', 'unseen', `${decision === 'like' ? 'Liked' : 'Noped'} ${header.titles[row]}`);
    one.title = header.titles[row];
    one.append(cover(row), sign, words);
    return one;
  }));
}

/** Rows keep their elements, so that one sees them move. */
function showList(parent, rows) {
  const before = new Map([...parent.children].map((one) => [one.dataset.id, one]));
  const places = new Map([...before].map(([id, one]) => [id, one.getBoundingClientRect().top]));
  parent.replaceChildren(...rows.map(({rank, id, row, title, from, reason}) => {
    const one = before.get(id) ?? element('li');
    if (!before.has(id)) {
      const words = element('span');
      const name = element('span', 'name', title);
      name.lang = 'ja';
      words.append(name, element('span', 'from'));
      const dot = element('i', 'dot');
      dot.setAttribute('role', 'img');
      one.dataset.id = id;
      one.append(element('span', 'rank'), row === undefined ? element('span') : cover(row), words, dot);
    }
    one.title = reason ? `${title}: ${reason}` : title;
    one.querySelector('.rank').textContent = rank;
    one.querySelector('.from').textContent = from;
    one.querySelector('.dot').setAttribute('aria-label', 'being compared');
    return one;
  }));
  if (matchMedia('(prefers-reduced-motion: reduce)').matches) return;
  for (const one of parent.children) {
    const moved = places.has(one.dataset.id) ? places.get(one.dataset.id) - one.getBoundingClientRect().top : null;
    if (moved === null) one.animate([{opacity: 0}, {opacity: 1}], 250);
    else if (moved) one.animate([{transform: `translateY(${moved}px)`}, {transform: 'none'}], {duration: 300, easing: 'ease-out'});
  }
}

function mark(parent, others, where) {
  for (const one of parent.children) {
    const both = others.has(one.dataset.id);
    const dot = one.querySelector('.dot');
    dot.classList.toggle('both', both);
    dot.setAttribute('aria-label', both ? `also in the list of ${where}` : `not in the list of ${where}`);
  }
}

function makerOf(row) {
  return header.maker_names[header.maker_ids[row]] ?? '';
}

/** A picture from nothing but the ids: colours of the maker, shapes of the item. */
function cover(row) {
  const hue = (hash(String(header.maker_ids[row])) % 24) * 15;
  const seed = hash(items.ids[row]);
  const part = (k, n) => (seed >>> (k * 5)) % n;
  const [sky, ground, shape] = [
    `hsl(${hue} 42% ${70 + part(0, 9)}%)`,
    `hsl(${(hue + 24 + part(1, 30)) % 360} 38% ${42 + part(2, 12)}%)`,
    `hsl(${(hue + 180 + part(3, 40)) % 360} 55% 78%)`,
  ];
  const picture = drawn('svg', {viewBox: '0 0 160 110', preserveAspectRatio: 'xMidYMid slice', 'aria-hidden': 'true'});
  picture.append(drawn('rect', {width: 160, height: 110, fill: sky}));
  const x = 25 + part(1, 110);
  if (seed % 3 === 0) {
    picture.append(drawn('circle', {cx: x, cy: 26 + part(2, 25), r: 11 + part(3, 12), fill: shape}));
    hills(picture, ground, seed);
  } else if (seed % 3 === 1) {
    for (let k = 0; k < 5; k += 1) {
      picture.append(drawn('circle', {cx: x, cy: 112, r: 92 - k * 18, fill: k % 2 ? sky : ground, opacity: 0.9}));
    }
    picture.append(drawn('circle', {cx: 160 - x, cy: 24, r: 8 + part(2, 6), fill: shape}));
  } else {
    for (let k = 0; k < 4; k += 1) {
      const left = k * 40 + part(k, 9);
      const high = 30 + ((seed >>> (k * 3)) % 48);
      picture.append(drawn('rect', {x: left, y: 110 - high, width: 30, height: high, rx: 3, fill: k % 2 ? ground : shape}));
    }
  }
  return picture;
}

function hills(picture, colour, seed) {
  for (let k = 0; k < 3; k += 1) {
    const [a, b] = [58 + ((seed >>> (k * 4)) % 26) + k * 10, 50 + ((seed >>> (k * 6)) % 30) + k * 12];
    const d = `M0 ${a} C 40 ${b - 22} 70 ${a + 18} 100 ${b} S 150 ${a - 8} 160 ${b} V110 H0 Z`;
    picture.append(drawn('path', {d, fill: colour, opacity: 0.45 + k * 0.22}));
  }
}

/** FNV-1a: the same picture for the same id everywhere. */
function hash(text) {
  let value = 2166136261;
  for (const letter of text) value = Math.imul(value ^ letter.codePointAt(0), 16777619);
  return value >>> 0;
}

function drawn(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function element(name, className = '', text = '') {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

function milliseconds(value) {
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
}

async function json(response) {
  const found = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(found.error ?? `${response.status} ${response.statusText}`);
  return found;
}

function script(source) {
  return new Promise((resolve, reject) => {
    const one = document.createElement('script');
    one.src = source;
    one.onload = resolve;
    one.onerror = () => reject(new Error(`${source} cannot be loaded`));
    document.head.append(one);
  });
}
