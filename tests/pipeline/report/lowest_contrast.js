// [the lowest contrast of any text that is shown, where it is], by WCAG 2.2: the ink against all colours behind it.
(() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });

  function rgba(colour) {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [red, green, blue, alpha] = canvas.getImageData(0, 0, 1, 1).data;
    return [red, green, blue, alpha / 255];
  }

  const over = (top, below) => [0, 1, 2].map((at) => top[at] * top[3] + below[at] * (1 - top[3]));

  function behind(element) {
    if (!element) return rgba(matchMedia("(prefers-color-scheme: dark)").matches ? "black" : "white").slice(0, 3);
    return over(rgba(getComputedStyle(element).backgroundColor), behind(element.parentElement));
  }

  function luminance(colour) {
    const [red, green, blue] = colour
      .map((value) => value / 255)
      .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  }

  let lowest = [99, "nothing"];
  for (const element of document.querySelectorAll("body *")) {
    const says = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
    if (!says || element.disabled || !element.checkVisibility()) continue;
    if (element.closest(".sr, script, noscript, option, svg > title, svg > desc")) continue;
    const picture = element.closest("svg");
    const style = getComputedStyle(element);
    const ground = behind(picture ? picture.parentElement : element);
    const ink = over(rgba(picture ? style.fill : style.color), ground);
    const [one, other] = [luminance(ink), luminance(ground)];
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    const name = element.className.baseVal ?? element.className;
    if (ratio < lowest[0]) lowest = [ratio, `${element.tagName}.${name}: ${element.textContent.slice(0, 40)}`];
  }
  return lowest;
})()
