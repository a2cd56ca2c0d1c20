/** Types of matching.js: the user tower of one model run, in a browser or in Node. */

/** Bytes of a named file, or where to fetch it. */
export type Source = string | URL | ((name: string) => Promise<ArrayBuffer | ArrayBufferView>);

/** What is used of TensorFlow.js: `@tensorflow/tfjs`, or core + a backend + `loadGraphModel` of the converter. */
export interface TensorFlow {
  loadGraphModel(handler: {load(): Promise<any>}): Promise<any>;
  tensor(values: Float32Array, shape: number[], dtype: 'float32'): any;
  tidy(run: () => void): unknown;
}

export type Decision = 'like' | 'nope' | 'skip' | 1 | -1 | 0;

/** One decision of a user. */
export interface HistoryEvent {
  /** Content id, as in the item vectors; compared trimmed and in lower case. */
  id: string;
  decision: Decision;
  /** Moment as Date, ISO text or milliseconds since 1970; of all events or of none. */
  decidedAt?: Date | string | number;
}

/** Stored vectors of items, as the warehouse serves them. */
export interface ItemVectors {
  /** The model run that made them. */
  runId: string;
  /** Feature contract they were made under; compared where it is given. */
  contractHash?: string;
  ids: readonly string[];
  /** One vector after the other: floats, or half-precision numbers as unsigned integers. */
  vectors: Float32Array | Uint16Array;
  /** Maker of each item, 0 or null for none; needed for `maxPerMaker`. */
  makers?: ArrayLike<number | null>;
  /** Performers of each item; needed for `maxPerPerformer`. */
  performers?: ArrayLike<readonly number[]>;
  /** The header of the file they came from: titles and whatever else is shown. */
  header?: any;
}

/** Padded input of the tower, newest event first, zeros behind the last. */
export interface PaddedInputs {
  /** history length × history dimensions: stored coordinates times `stored_norm`. */
  historyVectors: Float32Array;
  /** 1 like, -1 nope, 0 skip. */
  decisions: Float32Array;
  /** Days before the newest event of the user. */
  ageDays: Float32Array;
  /** 1 for an event, 0 for padding. */
  mask: Float32Array;
}

/** A user as the model of one run sees them. */
export interface UserVector {
  readonly runId: string;
  /** Unit norm: weight of the prior, 0, direction. */
  readonly vector: Float32Array;
  /** Events that were read: known items, the newest `historyLength`. */
  readonly events: number;
  /** Decided items without a vector; they told nothing. */
  readonly unknown: readonly string[];
  /** Every item of the history; `rank` leaves them out. */
  readonly decided: ReadonlySet<string>;
  /** Nothing is known of this user: the list is the popularity prior's. */
  readonly isPriorOnly: boolean;
}

export interface RankOptions {
  /** Places of the list; 20 unless said otherwise. */
  limit?: number;
  /** Further ids to leave out. */
  hide?: Iterable<string>;
  /** How many of the first places one maker may hold. */
  maxPerMaker?: number | null;
  /** How many of the first places one performer may hold. */
  maxPerPerformer?: number | null;
  /** How many first places those limits look at; the whole list unless said otherwise. */
  places?: number;
}

export interface RankedItem {
  /** From 1. */
  rank: number;
  id: string;
  /** Cosine of stored vectors, -1 to 1. */
  score: number;
  /** Row of the item in its set. */
  row: number;
}

/** `manifest.json` of a bundle. */
export interface Manifest {
  format: number;
  run_id: string;
  contract_hash: string;
  /** Microseconds since 1970 of the newest decision the model learned from. */
  trained_until: number;
  weights: 'float32' | 'float16' | 'uint16';
  dimensions: number;
  stored_norm: number;
  history_length: number;
  history_dimensions: number;
  /** First coordinate of the stored vector that a history holds, and the one after its last. */
  history_coordinates: [number, number];
  decision_codes: {like: number; nope: number; skip: number};
  inputs: string[];
  output: string;
  notes: string[];
}

export declare const FORMAT: number;

export declare class MatchingError extends Error {}
export declare class BundleError extends MatchingError {}
export declare class RunMismatchError extends MatchingError {
  constructor(what: string, expected: string, found: unknown);
  readonly expected: string;
  readonly found: unknown;
}
export declare class ContractMismatchError extends MatchingError {
  constructor(what: string, expected: string, found: unknown);
  readonly expected: string;
  readonly found: unknown;
}
export declare class VectorsError extends MatchingError {}
export declare class HistoryError extends MatchingError {}

export declare class ItemSet {
  private constructor();
  readonly runId: string;
  readonly ids: readonly string[];
  readonly vectors: Float32Array;
  readonly dimensions: number;
  readonly rows: ReadonlyMap<string, number>;
  readonly makers: ArrayLike<number | null> | null;
  readonly performers: ArrayLike<readonly number[]> | null;
  readonly size: number;
  vector(id: string): Float32Array | undefined;
}

export declare class Recommender {
  private constructor();
  readonly manifest: Manifest;
  readonly runId: string;
  readonly contractHash: string;
  readonly dimensions: number;
  readonly historyLength: number;
  readonly weights: 'float32' | 'float16' | 'uint16';
  /** @throws RunMismatchError, ContractMismatchError, VectorsError */
  items(given: ItemVectors): ItemSet;
  /** @throws HistoryError, RunMismatchError */
  encodeUser(history: readonly HistoryEvent[], items: ItemSet): UserVector;
  encodePadded(inputs: PaddedInputs): Float32Array;
  /** @throws RunMismatchError, VectorsError */
  rank(user: UserVector, items: ItemSet, options?: RankOptions): RankedItem[];
}

/** @throws BundleError, RunMismatchError, ContractMismatchError */
export declare function loadRecommender(
  source: Source,
  tf: TensorFlow,
  expected?: {runId?: string; contractHash?: string},
): Promise<Recommender>;

/** @throws BundleError */
export declare function loadItems(source: Source): Promise<ItemVectors>;

export declare function decodeHalf(halves: Uint16Array): Float32Array;
