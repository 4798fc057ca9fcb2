/**
 * First host id of the range of 65,536 that tests unpack layers into. Far from what distributions and useradd hand out, and the same
 * for all tests: files of two tests with one owner harm nobody.
 */
export const storeUidBase = 1_800_000_000;

/** First host id of a range for the job that a test runs on such layers; never the store's. */
export const jobUidBase: number = storeUidBase + 65_536;
