/**
 * The user tower in a browser or in Node: a history in, a user vector out, items ranked by it.
 *
 *     import {loadItems, loadRecommender} from './matching.js';
 *     const recommender = await loadRecommender('./bundle/', tf);           // tf: TensorFlow.js with loadGraphModel
 *     const items = recommender.items(await loadItems('./items/'));         // refused unless they are of the same run
 *     const user = recommender.encodeUser([{id: 'abcd00123', decision: 'like', decidedAt: new Date()}], items);
 *     const list = recommender.rank(user, items, {limit: 20});
 *
 * Vectors of two runs must never meet: their coordinates mean different things and every product of them is noise that
 * looks like a score. Whatever does not fit is an error of a named class, never a worse list.
 *
 * Belongs here: loading, checking, encoding, ranking. Does not belong here: fetching what to rank, pages, storage. The
 * types that comments name are those of matching.d.ts.
 */

/** Version of bundles and item files that this module reads. */
export const FORMAT = 2;

const MILLISECONDS_PER_DAY = 86_400_000;
/** Half precision rounds each of 768 coordinates. */
const NORM_TOLERANCE = 2e-3;
const WEIGHT_BYTES = {float32: 4, int32: 4, bool: 1};
const QUANTIZED_BYTES = {float16: 2, uint16: 2, uint8: 1};

/** Whatever this module refuses. */
export class MatchingError extends Error {
  /** @param {string} message */
  constructor(message) {
    super(message);
    this.name = new.target.name;
  }
}

/** The bundle or an item file cannot be read, or is not what this module reads. */
export class BundleError extends MatchingError {}

/** Vectors of another model run. */
export class RunMismatchError extends MatchingError {
  /**
   * @param {string} what
   * @param {string} expected
   * @param {unknown} found
   */
  constructor(what, expected, found) {
    super(`${what} of run ${found ?? '(none named)'} cannot be used with the model of run ${expected}`);
    this.expected = expected;
    this.found = found;
  }
}

/** Made under another feature contract. */
export class ContractMismatchError extends MatchingError {
  /**
   * @param {string} what
   * @param {string} expected
   * @param {unknown} found
   */
  constructor(what, expected, found) {
    super(`${what} made under contract ${found} cannot be used with contract ${expected}`);
    this.expected = expected;
    this.found = found;
  }
}

/** Vectors of another length, number or form. */
export class VectorsError extends MatchingError {}

/** A history that says nothing definite. */
export class HistoryError extends MatchingError {}

/**
 * Load a bundle that `matching export tfjs` wrote.
 *
 * @param {Source} source Where the files are: an address, or a function that returns the bytes of a named file.
 * @param {TensorFlow} tf TensorFlow.js: core, a backend, and `loadGraphModel` of the converter.
 * @param {{runId?: string, contractHash?: string}} [expected] Refuse any other bundle than this one.
 * @returns {Promise<Recommender>}
 */
export async function loadRecommender(source, tf, expected = {}) {
  const read = reader(source);
  /** @type {Manifest} */
  const manifest = await readJson(read, 'manifest.json');
  requireFormat('bundle', manifest.format);
  if (expected.runId !== undefined && expected.runId !== manifest.run_id) {
    throw new RunMismatchError('a bundle', expected.runId, manifest.run_id);
  }
  if (expected.contractHash !== undefined && expected.contractHash !== manifest.contract_hash) {
    throw new ContractMismatchError('a bundle', expected.contractHash, manifest.contract_hash);
  }
  const [first, last] = manifest.history_coordinates;
  if (last - first !== manifest.history_dimensions || first < 0 || last > manifest.dimensions) {
    throw new BundleError('the bundle contradicts itself about the coordinates of a history');
  }
  const topology = await readJson(read, 'model.json');
  const groups = topology.weightsManifest;
  const weightSpecs = groups.flatMap((group) => group.weights);
  const weightData = joined(await Promise.all(groups.flatMap((group) => group.paths).map((name) => read(name))));
  const size = weightSpecs.reduce((sum, spec) => sum + byteSize(spec), 0);
  if (weightData.byteLength !== size) {
    throw new BundleError(`the weights are ${weightData.byteLength} bytes long, not ${size}: the download broke off?`);
  }
  const model = await tf.loadGraphModel({
    load: async () => ({
      modelTopology: topology.modelTopology,
      signature: topology.signature,
      format: topology.format,
      weightSpecs,
      weightData,
    }),
  });
  return new Recommender(manifest, model, topology.signature.outputs[manifest.output].name, tf);
}

/**
 * Load item vectors that `matching export vectors` wrote: `items.json` and the half-precision numbers beside it.
 *
 * @param {Source} source
 * @returns {Promise<ItemVectors>}
 */
export async function loadItems(source) {
  const read = reader(source);
  const header = await readJson(read, 'items.json');
  requireFormat('item file', header.format);
  const bytes = await read(header.vectors);
  if (bytes.byteLength !== header.ids.length * header.dimensions * 2) {
    throw new BundleError(`${header.vectors} is ${bytes.byteLength} bytes long: not ${header.ids.length} vectors`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const vectors = new Uint16Array(bytes.byteLength / 2);
  for (let k = 0; k < vectors.length; k += 1) vectors[k] = view.getUint16(2 * k, true); // little-endian everywhere
  return {
    runId: header.run_id,
    contractHash: header.contract_hash,
    ids: header.ids,
    vectors,
    makers: header.maker_ids,
    performers: header.performer_ids,
    header,
  };
}

/**
 * Turn half-precision numbers (IEEE 754 binary16, as unsigned integers) into floats.
 *
 * @param {Uint16Array} halves
 * @returns {Float32Array}
 */
export function decodeHalf(halves) {
  const table = halfTable();
  const floats = new Float32Array(halves.length);
  for (let k = 0; k < halves.length; k += 1) floats[k] = table[halves[k]];
  return floats;
}

/** Items of one run, checked: what a history can name and what can be ranked. Made by `Recommender.items`. */
export class ItemSet {
  /**
   * @param {ItemVectors} given
   * @param {Float32Array} vectors
   * @param {number} dimensions
   */
  constructor(given, vectors, dimensions) {
    this.runId = given.runId;
    this.ids = given.ids.map(normalized);
    this.vectors = vectors;
    this.dimensions = dimensions;
    this.makers = given.makers ?? null;
    this.performers = given.performers ?? null;
    /** @type {Map<string, number>} */
    this.rows = new Map(this.ids.map((id, row) => [id, row]));
    Object.freeze(this);
  }

  /** How many items there are. */
  get size() {
    return this.ids.length;
  }

  /**
   * @param {string} id
   * @returns {Float32Array | undefined} The stored vector of an item; undefined when it is not in this set.
   */
  vector(id) {
    const row = this.rows.get(normalized(id));
    return row === undefined
      ? undefined
      : this.vectors.subarray(row * this.dimensions, (row + 1) * this.dimensions);
  }
}

/** The user tower of one run. Made by `loadRecommender`. */
export class Recommender {
  #model;
  #output;
  #tf;

  /**
   * @param {Manifest} manifest
   * @param {any} model
   * @param {string} output
   * @param {TensorFlow} tf
   */
  constructor(manifest, model, output, tf) {
    this.manifest = manifest;
    this.runId = manifest.run_id;
    this.contractHash = manifest.contract_hash;
    this.dimensions = manifest.dimensions;
    this.historyLength = manifest.history_length;
    this.weights = manifest.weights;
    this.#model = model;
    this.#output = output;
    this.#tf = tf;
  }

  /**
   * Check item vectors and take them in; anything of another run, contract or form is refused.
   *
   * @param {ItemVectors} given Stored vectors, one after the other, as floats or as halves.
   * @returns {ItemSet}
   */
  items(given) {
    if (given.runId !== this.runId) throw new RunMismatchError('item vectors', this.runId, given.runId);
    if (given.contractHash !== undefined && given.contractHash !== this.contractHash) {
      throw new ContractMismatchError('item vectors', this.contractHash, given.contractHash);
    }
    if (!(given.vectors instanceof Float32Array || given.vectors instanceof Uint16Array)) {
      throw new VectorsError('vectors must be a Float32Array, or a Uint16Array of half-precision numbers');
    }
    if (given.vectors.length !== given.ids.length * this.dimensions) {
      throw new VectorsError(
        `${given.ids.length} items of ${this.dimensions} dimensions need ${given.ids.length * this.dimensions} numbers,`
          + ` not ${given.vectors.length}`,
      );
    }
    for (const [name, column] of [['makers', given.makers], ['performers', given.performers]]) {
      if (column && column.length !== given.ids.length) throw new VectorsError(`${name} must have one entry per item`);
    }
    const vectors = given.vectors instanceof Uint16Array ? decodeHalf(given.vectors) : given.vectors;
    for (let row = 0; row < given.ids.length; row += 1) {
      let squared = 0;
      for (let k = row * this.dimensions; k < (row + 1) * this.dimensions; k += 1) squared += vectors[k] * vectors[k];
      if (!(Math.abs(Math.sqrt(squared) - 1) <= NORM_TOLERANCE)) {
        throw new VectorsError(`the vector of item ${given.ids[row]} is not of unit norm`);
      }
    }
    const set = new ItemSet(given, vectors, this.dimensions);
    if (set.rows.size !== set.size) throw new VectorsError('an item id occurs more than once');
    return set;
  }

  /**
   * Encode a history as the warehouse does: the newest events count, whoever has none gets the popularity prior alone.
   *
   * @param {readonly HistoryEvent[]} history In any order where all events say when; without any `decidedAt`, newest
   *   first and made at one moment. Of equal moments the later entry counts as newer.
   * @param {ItemSet} items Where the vectors of decided items are found; what is not there is left out and named.
   * @returns {UserVector}
   */
  encodeUser(history, items) {
    this.#requireRun('items', items.runId);
    const {history_dimensions: width, stored_norm: scale, history_coordinates: [first]} = this.manifest;
    const events = newestFirst(history, this.manifest.decision_codes);
    const unknown = [...new Set(events.filter((event) => !items.rows.has(event.id)).map((event) => event.id))];
    const known = events.filter((event) => items.rows.has(event.id)).slice(0, this.historyLength);
    const about = {runId: this.runId, events: known.length, unknown, decided: new Set(events.map((event) => event.id))};
    if (!known.length) {
      const vector = new Float32Array(this.dimensions);
      vector[0] = 1; // the coordinate of the popularity prior: what the warehouse lists where it knows nobody
      return Object.freeze({...about, vector, isPriorOnly: true});
    }
    const inputs = {
      historyVectors: new Float32Array(this.historyLength * width),
      decisions: new Float32Array(this.historyLength),
      ageDays: new Float32Array(this.historyLength),
      mask: new Float32Array(this.historyLength),
    };
    known.forEach((event, place) => {
      const start = /** @type {number} */ (items.rows.get(event.id)) * this.dimensions + first;
      for (let k = 0; k < width; k += 1) inputs.historyVectors[place * width + k] = items.vectors[start + k] * scale;
      inputs.decisions[place] = event.code;
      inputs.ageDays[place] = (known[0].at - event.at) / MILLISECONDS_PER_DAY;
      inputs.mask[place] = 1;
    });
    return Object.freeze({...about, vector: this.encodePadded(inputs), isPriorOnly: false});
  }

  /**
   * Run the tower on padded arrays of one user; `encodeUser` makes them from a history.
   *
   * @param {PaddedInputs} inputs
   * @returns {Float32Array} The stored user vector.
   */
  encodePadded(inputs) {
    const {history_length: length, history_dimensions: width} = this.manifest;
    const tf = this.#tf;
    /** @type {Float32Array} */
    let result = new Float32Array(0);
    tf.tidy(() => {
      const found = this.#model.execute(
        {
          history_vectors: tf.tensor(inputs.historyVectors, [1, length, width], 'float32'),
          decisions: tf.tensor(inputs.decisions, [1, length], 'float32'),
          age_days: tf.tensor(inputs.ageDays, [1, length], 'float32'),
          mask: tf.tensor(inputs.mask, [1, length], 'float32'),
        },
        this.#output,
      );
      result = found.dataSync(); // not returned: tidy would walk through every number of it
    });
    if (result.length !== this.dimensions || !result.every(Number.isFinite)) {
      throw new BundleError('the model returned something that is no user vector');
    }
    return result;
  }

  /**
   * Rank items for a user: best first, without what the user decided on.
   *
   * With limits on makers or performers an item gives way when its maker or performer has all of its share of the
   * first places; those passed over follow behind, so that a list never shows fewer items than without limits. What
   * may take a place is searched as deep as the warehouse does: limit + 3 × places.
   *
   * @param {UserVector} user
   * @param {ItemSet} items
   * @param {RankOptions} [options]
   * @returns {RankedItem[]}
   */
  rank(user, items, options = {}) {
    const {limit = 20, hide = [], maxPerMaker = null, maxPerPerformer = null, places = limit} = options;
    this.#requireRun('a user vector', user.runId);
    this.#requireRun('items', items.runId);
    for (const [name, value] of Object.entries({limit, places})) {
      if (!Number.isInteger(value) || value < 1) throw new MatchingError(`${name} must be a whole number from 1`);
    }
    if (maxPerMaker !== null && !items.makers) throw new VectorsError('a limit per maker needs makers of the items');
    if (maxPerPerformer !== null && !items.performers) {
      throw new VectorsError('a limit per performer needs performers of the items');
    }
    const hidden = new Set([...user.decided, ...[...hide].map(normalized)]);
    const scores = products(items, user.vector);
    const rows = [];
    for (let row = 0; row < items.size; row += 1) if (!hidden.has(items.ids[row])) rows.push(row);
    // Equal scores go by id, so that the order does not depend on how the items were sent.
    rows.sort((a, b) => scores[b] - scores[a] || (items.ids[a] < items.ids[b] ? -1 : 1));
    const groups = [];
    if (maxPerMaker !== null) {
      groups.push({limit: maxPerMaker, of: (row) => (items.makers[row] ? [items.makers[row]] : [])});
    }
    if (maxPerPerformer !== null) groups.push({limit: maxPerPerformer, of: (row) => items.performers[row]});
    const deep = rows.slice(0, limit + 3 * places); // as serving.personal_rows does
    return limited(deep, limit, places, groups).map((row, k) => ({rank: k + 1, id: items.ids[row], score: scores[row], row}));
  }

  /**
   * @param {string} what
   * @param {string} runId
   */
  #requireRun(what, runId) {
    if (runId !== this.runId) throw new RunMismatchError(what, this.runId, runId);
  }
}

/** As the warehouse compares ids. */
function normalized(/** @type {string} */ id) {
  return String(id).trim().toLowerCase();
}

function newestFirst(history, codes) {
  const timed = history.filter((event) => event.decidedAt !== undefined && event.decidedAt !== null).length;
  if (timed !== 0 && timed !== history.length) {
    throw new HistoryError('either all events of a history say when (decidedAt), or none does');
  }
  const events = history.map((event, place) => {
    const code = typeof event.decision === 'number' ? event.decision : codes[event.decision];
    if (!Object.values(codes).includes(code)) {
      throw new HistoryError(`a decision is one of ${Object.keys(codes).join(', ')}, not ${event.decision}`);
    }
    const at = timed ? moment(event.decidedAt) : 0;
    if (!Number.isFinite(at)) throw new HistoryError(`${event.decidedAt} is no moment`);
    return {id: normalized(event.id), code, at, place};
  });
  return timed ? events.sort((a, b) => b.at - a.at || b.place - a.place) : events;
}

function moment(value) {
  return typeof value === 'number' ? value : new Date(value).getTime();
}

function products(items, vector) {
  const {vectors, dimensions, size} = items;
  const scores = new Float64Array(size);
  for (let row = 0, k = 0; row < size; row += 1) {
    let sum = 0;
    for (let c = 0; c < dimensions; c += 1, k += 1) sum += vectors[k] * vector[c];
    scores[row] = sum;
  }
  return scores;
}

/** The rule of ml/diversity.py on one list. */
function limited(rows, limit, places, groups) {
  if (!groups.length) return rows.slice(0, limit);
  const held = groups.map(() => new Map());
  const first = [];
  const passed = [];
  let rank = 0;
  for (; rank < rows.length && first.length < places; rank += 1) {
    const mine = groups.map((group) => group.of(rows[rank]));
    if (groups.some((group, g) => mine[g].some((id) => (held[g].get(id) ?? 0) >= group.limit))) {
      passed.push(rows[rank]);
      continue;
    }
    first.push(rows[rank]);
    mine.forEach((ids, g) => ids.forEach((id) => held[g].set(id, (held[g].get(id) ?? 0) + 1)));
  }
  return [...first, ...passed, ...rows.slice(rank)].slice(0, limit);
}

function reader(source) {
  if (typeof source === 'function') return async (name) => asBytes(await source(name));
  const base = String(source).replace(/\/?$/, '/');
  return async (name) => {
    const response = await fetch(`${base}${name}`);
    if (!response.ok) throw new BundleError(`${name} cannot be loaded: ${response.status} ${response.statusText}`);
    return new Uint8Array(await response.arrayBuffer());
  };
}

function asBytes(found) {
  return ArrayBuffer.isView(found)
    ? new Uint8Array(found.buffer, found.byteOffset, found.byteLength)
    : new Uint8Array(found);
}

async function readJson(read, name) {
  const text = new TextDecoder().decode(await read(name));
  try {
    return JSON.parse(text);
  } catch {
    throw new BundleError(`${name} is not JSON`);
  }
}

function requireFormat(what, format) {
  if (format !== FORMAT) throw new BundleError(`a ${what} of format ${format}: this module reads format ${FORMAT}`);
}

function joined(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.byteLength, 0));
  let place = 0;
  for (const part of parts) {
    whole.set(part, place);
    place += part.byteLength;
  }
  return whole.buffer;
}

function byteSize(spec) {
  const each = spec.quantization ? QUANTIZED_BYTES[spec.quantization.dtype] : WEIGHT_BYTES[spec.dtype];
  return spec.shape.reduce((product, size) => product * size, 1) * each;
}

/** @type {Float32Array | undefined} */
let halves;

function halfTable() {
  if (halves) return halves;
  halves = new Float32Array(65_536);
  for (let bits = 0; bits < 65_536; bits += 1) {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 0x1f;
    const fraction = bits & 0x3ff;
    if (exponent === 31) halves[bits] = fraction ? NaN : sign * Infinity;
    else if (exponent) halves[bits] = sign * 2 ** (exponent - 15) * (1 + fraction / 1024);
    else halves[bits] = sign * 2 ** -14 * (fraction / 1024);
  }
  return halves;
}
