// The back end of `segdistill serve`: the server has the network, and this asks it over HTTP.

const TOKEN_KEY = "segdistill-token";

class TokenError extends Error {
  name = "TokenError";
}

/** A response of the server; an error response becomes an Error with its one line. */
async function request(path, body) {
  const token = sessionStorage.getItem(TOKEN_KEY);
  let response;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", body, headers: token ? { Authorization: `Bearer ${token}` } : {} });
  } catch {
    throw new Error("The server cannot be reached.");
  }
  if (response.ok) return response.json();
  if (response.status === 401) {
    sessionStorage.removeItem(TOKEN_KEY);
    throw new TokenError(token ? "The server refuses this token." : "");
  }
  const message = await response.json().then(({ error }) => error, () => `status ${response.status}`);
  throw new Error(`${message}.`);
}

let limits = null;

export const backend = {
  live: false,

  setToken(token) {
    sessionStorage.setItem(TOKEN_KEY, token);
  },

  /** The network's card, with a sentence on the files that are accepted. */
  async open() {
    const card = await request("v1/model");
    limits = card.limits;
    const megabytes = Number((limits.max_bytes / 2 ** 20).toFixed(1));
    return { ...card, accepts: `JPEG, PNG, WebP, BMP or TIFF, up to ${megabytes} MB.` };
  },

  /** The mask of an image file: width, height, indices (row by row), classes (largest first), times in ms. */
  async segment(file) {
    if (limits && file.size > limits.max_bytes) {
      throw new Error(`The file has ${(file.size / 2 ** 20).toFixed(1)} MB, more than this server takes.`);
    }
    const body = new FormData();
    body.append("image", file, "picture"); // the server has no use for the file's name
    const { width, height, classes, seconds } = await request("v1/segment?format=json", body);
    const indices = new Uint8Array(width * height);
    for (const { index, runs } of classes) {
      for (let at = 0; at < runs.length; at += 2) indices.fill(index, runs[at], runs[at] + runs[at + 1]);
    }
    const times = [["Network, with waiting", 1000 * seconds.network], ["Decoding", 1000 * seconds.decode]];
    return { width, height, indices, classes, times };
  },
};
