// Computes user vectors with an exported bundle: node parity.mjs BUNDLE_FOLDER WORK_FOLDER
// WORK_FOLDER/job.json says which files hold what; vectors.f32 and told.json are written beside it.
// Also the shortest working example of loading the bundle outside a browser.
import {readFile, writeFile} from 'node:fs/promises';
import path from 'node:path';
import * as core from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-backend-cpu';
import {loadGraphModel} from '@tensorflow/tfjs-converter';
import {loadRecommender} from './matching.js';

const WARM_UP = 20;

const [bundle, work] = process.argv.slice(2);
const job = JSON.parse(await readFile(path.join(work, 'job.json'), 'utf8'));
const floats = async (name) => {
  const bytes = await readFile(path.join(work, name));
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
};

await core.setBackend('cpu');
const recommender = await loadRecommender((name) => readFile(path.join(bundle, name)), {...core, loadGraphModel});
const {dimensions} = recommender;
const vectors = new Float32Array(job.users * dimensions);
const times = [];

if (job.histories) {
  const items = recommender.items({runId: recommender.runId, ids: job.ids, vectors: await floats(job.vectors)});
  const histories = job.histories.map((events) =>
    events.map(([item, decision, decidedAt]) => ({id: job.ids[item], decision, decidedAt})),
  );
  for (const events of histories.slice(0, WARM_UP)) recommender.encodeUser(events, items);
  histories.forEach((events, row) => {
    const started = performance.now();
    const user = recommender.encodeUser(events, items);
    times.push(performance.now() - started);
    vectors.set(user.vector, row * dimensions);
  });
} else {
  const given = await Promise.all(['historyVectors', 'decisions', 'ageDays', 'mask'].map((name) => floats(`${name}.f32`)));
  const {history_length: length, history_dimensions: width} = recommender.manifest;
  for (let row = 0; row < job.users; row += 1) {
    const [historyVectors, decisions, ageDays, mask] = given.map((values, k) => {
      const each = k ? length : length * width;
      return values.slice(row * each, (row + 1) * each);
    });
    vectors.set(recommender.encodePadded({historyVectors, decisions, ageDays, mask}), row * dimensions);
  }
}
await writeFile(path.join(work, 'vectors.f32'), vectors);
const milliseconds = times.sort((a, b) => a - b)[times.length >> 1] ?? 0;
await writeFile(path.join(work, 'told.json'), JSON.stringify({users: job.users, milliseconds}));
