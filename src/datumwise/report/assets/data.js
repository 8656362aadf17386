// What the page carries: facts as JSON, everything else in one zlib stream of arrays.
const NOWHERE = 65535; // the code of "no value" in every uint16 array
const ARRAYS = { uint8: Uint8Array, uint16: Uint16Array };

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

async function unpack(base64, layout) {
  const stream = new Blob([bytesOf(base64)]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  const data = {};
  for (const [name, [type, offset, size]] of Object.entries(layout)) {
    data[name] =
      type === "json"
        ? JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, offset, size)))
        : new ARRAYS[type](buffer, offset, size / ARRAYS[type].BYTES_PER_ELEMENT);
  }
  return data;
}

// The value behind a code of a score, NaN where there is none.
function decode(score, code) {
  return code === NOWHERE ? NaN : score.low + (code / (NOWHERE - 1)) * (score.high - score.low);
}

// What goes into the file of saved ids: a CSV of one column, quoted where it must be.
function csvOf(ids) {
  const quote = (id) => (/[",\r\n]|^\s|\s$|^$/.test(id) ? `"${id.replaceAll('"', '""')}"` : id);
  return ["id", ...ids.map(quote)].join("\n") + "\n";
}
