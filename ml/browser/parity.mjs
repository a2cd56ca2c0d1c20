// Computes user vectors with an exported bundle: node parity.mjs BUNDLE_FOLDER INPUTS_JSON > VECTORS_JSON
// Also the shortest working example of loading the bundle outside Python.
import {readFile} from 'node:fs/promises';
import path from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-backend-cpu';
import {loadGraphModel} from '@tensorflow/tfjs-converter';

const [bundle, inputsFile] = process.argv.slice(2);
const readJson = async (file) => JSON.parse(await readFile(file, 'utf8'));

const manifest = await readJson(path.join(bundle, 'manifest.json'));
const topology = await readJson(path.join(bundle, 'model.json'));
const shards = await Promise.all(
  topology.weightsManifest.flatMap((group) => group.paths).map((name) => readFile(path.join(bundle, name))),
);
const bytes = Buffer.concat(shards);
const model = await loadGraphModel({
  load: async () => ({
    modelTopology: topology.modelTopology,
    signature: topology.signature,
    format: topology.format,
    weightSpecs: topology.weightsManifest.flatMap((group) => group.weights),
    weightData: bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength),
  }),
});

await tf.setBackend('cpu');
const given = await readJson(inputsFile);
const inputs = Object.fromEntries(
  manifest.inputs.map((name) => [name, tf.tensor(given[name].values, given[name].shape, 'float32')]),
);
const result = await model.executeAsync(inputs, [topology.signature.outputs[manifest.output].name]);
process.stdout.write(JSON.stringify(await (Array.isArray(result) ? result[0] : result).array()));
