// What an app may rely on: `node --test` with BUNDLE (a float32 bundle) in the environment; see test_ml_tfjs.py.
import assert from 'node:assert/strict';
import {readFile} from 'node:fs/promises';
import path from 'node:path';
import {test} from 'node:test';
import * as core from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-backend-cpu';
import {loadGraphModel} from '@tensorflow/tfjs-converter';
import * as matching from './matching.js';

const {BundleError, ContractMismatchError, HistoryError, RunMismatchError, VectorsError} = matching;
const tf = {...core, loadGraphModel};
const files = (name) => readFile(path.join(process.env.BUNDLE, name));
const changed = (name, change) => async (asked) => {
  const bytes = await files(asked);
  return asked === name ? change(bytes) : bytes;
};
const edited = (name, edit) =>
  changed(name, (bytes) => Buffer.from(JSON.stringify(edit(JSON.parse(bytes.toString('utf8'))))));

await core.setBackend('cpu');
const recommender = await matching.loadRecommender(files, tf);
const {dimensions, runId, historyLength} = recommender;

/** Items of unit norm; the first coordinate, the prior, falls from item to item. */
function given(n, extra = {}) {
  const vectors = new Float32Array(n * dimensions);
  for (let row = 0; row < n; row += 1) {
    const one = vectors.subarray(row * dimensions, (row + 1) * dimensions);
    for (let k = 2; k < dimensions; k += 1) one[k] = Math.sin(1 + row * 31.7 + k * k * 0.37);
    one[0] = (n - row) / n;
    const norm = Math.hypot(...one);
    one.forEach((value, k) => { one[k] = value / norm; });
  }
  return {runId, ids: Array.from({length: n}, (_, row) => `item${String(row).padStart(3, '0')}`), vectors, ...extra};
}
const items = recommender.items(given(60));
const likes = (...rows) => rows.map((row) => ({id: items.ids[row], decision: 'like'}));
const farthest = (a, b) => a.reduce((most, value, k) => Math.max(most, Math.abs(value - b[k])), 0);

test('a bundle other than the expected one, or of another format, is refused', async () => {
  await assert.rejects(matching.loadRecommender(files, tf, {runId: 'another'}), RunMismatchError);
  await assert.rejects(matching.loadRecommender(files, tf, {contractHash: 'another'}), ContractMismatchError);
  const older = edited('manifest.json', (manifest) => ({...manifest, format: 1}));
  await assert.rejects(matching.loadRecommender(older, tf), BundleError);
  const loaded = await matching.loadRecommender(files, tf, {runId, contractHash: recommender.contractHash});
  assert.equal(loaded.runId, runId);
});

test('a bundle that arrived broken is refused', async () => {
  const {paths: [shard]} = JSON.parse(await files('model.json')).weightsManifest[0];
  await assert.rejects(matching.loadRecommender(changed(shard, (bytes) => bytes.subarray(4)), tf), BundleError);
  await assert.rejects(matching.loadRecommender(changed('model.json', (b) => b.subarray(0, 99)), tf), BundleError);
  const shifted = edited('manifest.json', (manifest) => ({...manifest, history_coordinates: [2, 3]}));
  await assert.rejects(matching.loadRecommender(shifted, tf), BundleError);
});

test('vectors of another run, contract, length, form or norm are refused, and so are repeated ids', () => {
  const refused = (change, error) => assert.throws(() => recommender.items({...given(3), ...change}), error);
  refused({runId: 'another'}, RunMismatchError);
  refused({runId: undefined}, RunMismatchError);
  refused({contractHash: 'another'}, ContractMismatchError);
  refused({vectors: new Float32Array(3 * dimensions - 1)}, VectorsError);
  refused({vectors: Array.from(given(3).vectors)}, VectorsError);
  refused({vectors: given(3).vectors.map((value) => value * 2)}, VectorsError);
  refused({vectors: given(3).vectors.fill(NaN)}, VectorsError);
  refused({ids: ['a', 'b', 'A ']}, VectorsError);
  refused({makers: [1, 2]}, VectorsError);
  assert.equal(recommender.items({...given(3), contractHash: recommender.contractHash}).size, 3);
});

test('a user or a set of items of another run never meets this one', () => {
  const user = recommender.encodeUser(likes(1), items);
  const foreign = new matching.ItemSet({...given(3), runId: 'another'}, given(3).vectors, dimensions);
  assert.throws(() => recommender.rank({...user, runId: 'another'}, items), RunMismatchError);
  assert.throws(() => recommender.rank(user, foreign), RunMismatchError);
  assert.throws(() => recommender.encodeUser(likes(1), foreign), RunMismatchError);
});

test('half-precision numbers are read bit by bit', () => {
  const bits = [0x3c00, 0xc000, 0x7bff, 0x0001, 0x0400, 0x8000, 0x7c00, 0x3555];
  const found = matching.decodeHalf(Uint16Array.from(bits));
  assert.deepEqual([...found], [1, -2, 65504, 2 ** -24, 2 ** -14, -0, Infinity, Math.fround(0.333251953125)]);
  assert.ok(Number.isNaN(matching.decodeHalf(Uint16Array.of(0x7e00))[0]));
});

test('a history means the same in any order when its events say when', () => {
  const history = [3, 9, 27, 41].map((row, k) => ({id: items.ids[row], decision: k % 2 ? 'nope' : 1, decidedAt: k * 9e7}));
  const turned = [history[2], history[0], history[3], history[1]].map((event) => ({
    ...event,
    id: ` ${event.id.toUpperCase()}`,
    decidedAt: new Date(event.decidedAt).toISOString(),
  }));
  const [one, other] = [recommender.encodeUser(history, items), recommender.encodeUser(turned, items)];
  assert.equal(farthest(one.vector, other.vector), 0);
  const backwards = history.map((event) => ({...event, decidedAt: -event.decidedAt}));
  assert.ok(farthest(one.vector, recommender.encodeUser(backwards, items).vector) > 1e-4);
});

test('without moments the first event is the newest; some with and some without is refused', () => {
  const times = [3, 2, 1].map((decidedAt) => decidedAt / 1e6);
  const timed = likes(5, 6, 7).map((event, k) => ({...event, decidedAt: times[k]}));
  const found = recommender.encodeUser(likes(5, 6, 7), items).vector;
  assert.ok(farthest(found, recommender.encodeUser(timed, items).vector) < 1e-6);
  assert.throws(() => recommender.encodeUser([timed[0], likes(6)[0]], items), HistoryError);
  assert.throws(() => recommender.encodeUser([{...timed[0], decidedAt: 'yesterday'}], items), HistoryError);
});

test('a decision that nobody knows is refused', () => {
  for (const decision of ['love', 2, undefined, 'toString']) {
    assert.throws(() => recommender.encodeUser([{id: 'item001', decision}], items), HistoryError);
  }
});

test('items without a vector are named and tell nothing', () => {
  const user = recommender.encodeUser([{id: 'Gone', decision: 'like'}, ...likes(4, 8)], items);
  assert.deepEqual([user.events, user.unknown], [2, ['gone']]);
  assert.equal(farthest(user.vector, recommender.encodeUser(likes(4, 8), items).vector), 0);
  assert.ok(user.decided.has('gone'));
});

test('events beyond the history length do not count', () => {
  const many = Array.from({length: historyLength + 5}, (_, k) => likes(k % 60)[0]);
  const user = recommender.encodeUser(many, items);
  assert.equal(user.events, historyLength);
  assert.equal(farthest(user.vector, recommender.encodeUser(many.slice(0, historyLength), items).vector), 0);
});

test('who has no known event gets the popularity prior alone', () => {
  for (const history of [[], [{id: 'gone', decision: 'like'}]]) {
    const user = recommender.encodeUser(history, items);
    assert.ok(user.isPriorOnly);
    assert.deepEqual([...user.vector.subarray(0, 3)], [1, 0, 0]);
    const first = recommender.rank(user, items, {limit: 5}).map((row) => row.id);
    assert.deepEqual(first, items.ids.slice(0, 5));
  }
});

test('a list is in order, as long as asked, and without decided and hidden items', () => {
  const user = recommender.encodeUser(likes(1, 2, 3), items);
  const list = recommender.rank(user, items, {limit: 50, hide: ['ITEM010']});
  assert.equal(list.length, 50);
  assert.deepEqual(list.map((row) => row.rank), list.map((_, k) => k + 1));
  assert.ok(list.every((row, k) => k === 0 || row.score <= list[k - 1].score));
  const hidden = new Set(['item001', 'item002', 'item003', 'item010']);
  assert.ok(list.every((row) => !hidden.has(row.id)));
  const vector = items.vector(list[0].id);
  const cosine = vector.reduce((sum, value, k) => sum + value * user.vector[k], 0);
  assert.ok(Math.abs(list[0].score - cosine) < 1e-9);
  assert.equal(recommender.rank(user, items, {limit: 1000}).length, 57);
  for (const wrong of [{limit: 0}, {places: 0.5}]) {
    assert.throws(() => recommender.rank(user, items, wrong), matching.MatchingError);
  }
});

test('equal scores go by id, however the items were sent', () => {
  const base = given(2);
  const vectors = new Float32Array([...base.vectors.subarray(0, dimensions), ...base.vectors.subarray(0, dimensions)]);
  const twins = recommender.items({runId, ids: ['b', 'a'], vectors});
  const user = recommender.encodeUser(likes(1), items);
  assert.deepEqual(recommender.rank(user, twins).map((row) => row.id), ['a', 'b']);
});

test('limits need to know makers and performers', () => {
  const user = recommender.encodeUser(likes(1), items);
  assert.throws(() => recommender.rank(user, items, {maxPerMaker: 1}), VectorsError);
  assert.throws(() => recommender.rank(user, items, {maxPerPerformer: 1}), VectorsError);
});

test('nothing is left behind in TensorFlow.js', () => {
  const before = tf.memory().numTensors;
  for (let k = 0; k < 20; k += 1) recommender.encodeUser(likes(k, k + 1), items);
  assert.equal(tf.memory().numTensors, before);
});

test('the types name what the module exports', async () => {
  const types = await readFile(new URL('matching.d.ts', import.meta.url), 'utf8');
  const declared = [...types.matchAll(/^export declare (?:async )?(?:class|function|const) (\w+)/gm)].map((found) => found[1]);
  assert.deepEqual(declared.sort(), Object.keys(matching).sort());
});

// Lists under limits, for comparison with ml.diversity; JOB names a file of cases, DONE the file to write.
if (process.env.JOB) {
  const cases = JSON.parse(await readFile(process.env.JOB, 'utf8'));
  const {writeFile} = await import('node:fs/promises');
  const lists = cases.map(({makers, performers, maxPerMaker, maxPerPerformer, places, limit}) => {
    const set = recommender.items(given(makers.length, {makers, performers}));
    const user = recommender.encodeUser(likes(1), items);
    const options = {limit, maxPerMaker, maxPerPerformer, places};
    const plain = recommender.rank(user, set, {limit: makers.length});
    return {plain: plain.map((row) => row.row), limited: recommender.rank(user, set, options).map((row) => row.row)};
  });
  await writeFile(process.env.DONE, JSON.stringify(lists));
}
