// What the page carries packed: gzip in base64, in elements that nobody parses before.

async function unpack(id) {
  const element = document.getElementById(id);
  const binary = atob(element.textContent);
  const bytes = Uint8Array.from(binary, (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

export async function unpackScript(id) {
  return new Blob([await unpack(id)], { type: "text/javascript" });
}

export async function unpackJson(id) {
  return JSON.parse(await unpack(id));
}

export const data = JSON.parse(document.getElementById("data").textContent);

const recent = new Map(); // a part is 256 KiB unpacked: some stay

export async function texts(part) {
  if (part < 0) return [];
  if (!recent.has(part)) {
    if (recent.size > 15) recent.delete(recent.keys().next().value);
    recent.set(part, unpackJson(`texts-${part}`));
  }
  return recent.get(part);
}
