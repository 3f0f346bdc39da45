const faults = [];
const visible = (element) =>
  element.checkVisibility({checkOpacity: true, checkVisibilityCSS: true}) && element.getClientRects().length;
const scope = document.querySelector('dialog[open]') ?? document.body;
for (const control of scope.querySelectorAll('a[href], button, input, select, [role=button]')) {
  const labels = [...(control.labels ?? [])].map((label) => label.textContent).join('');
  const name = control.getAttribute('aria-label') || labels || control.textContent;
  if (!name.trim()) faults.push(`no name: ${control.outerHTML}`);
}
for (const picture of scope.querySelectorAll('img')) if (!picture.hasAttribute('alt')) faults.push('no alt');
const ids = [...document.querySelectorAll('[id]')].map((element) => element.id);
if (new Set(ids).size < ids.length) faults.push('an ID stands twice');
const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
const rgba = (colour) => {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
};
const over = ([r, g, b, a], below) => [r, g, b].map((part, at) => part * a / 255 + below[at] * (1 - a / 255));
const ground = (element) => {
  const layers = [];
  for (let at = element; at; at = at.parentElement) { layers.push(rgba(getComputedStyle(at).backgroundColor)); if (layers.at(-1)[3] === 255) break; }
  return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
};
const light = (colour) => { const [r, g, b] = colour.map((part) => (part /= 255) <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const walker = document.createTreeWalker(scope, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !visible(element) || element.closest('.unseen, :disabled, script, option')) continue;
  const below = ground(element), [r, g, b, a] = rgba(getComputedStyle(element).color);
  const opacity = Number(getComputedStyle(element).opacity);
  const lights = [light(over([r, g, b, a * opacity], below)), light(below)].sort((one, other) => other - one);
  const contrast = (lights[0] + 0.05) / (lights[1] + 0.05);
  if (contrast < 4.5) faults.push(`${contrast.toFixed(2)}: ${walker.currentNode.data.trim()}`);
}
return faults;
