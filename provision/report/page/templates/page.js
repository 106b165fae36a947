"use strict";
(() => {
  const form = document.querySelector(".filter");
  const hosts = [...document.querySelectorAll(".host")];
  const tiles = [...document.querySelectorAll(".map a")];
  const more = document.querySelector(".more");
  const SHORT = 24;
  let all = hosts.length <= SHORT;

  const show = () => {
    const state = form ? form.elements.state.value : "";
    const name = form ? form.elements.name.value.trim().toLowerCase() : "";
    const fits = (node) =>
      (!state || node.dataset.state.split(" ").includes(state)) && node.dataset.name.toLowerCase().includes(name);
    const found = hosts.filter(fits);
    const shown = new Set(all ? found : found.slice(0, SHORT));
    hosts.forEach((node) => { node.hidden = !shown.has(node); });
    tiles.forEach((node) => node.classList.toggle("out", !fits(node)));
    more.hidden = shown.size === found.length;
    more.firstElementChild.textContent = `Show all ${found.length} hosts`;
    if (form) form.querySelector("output").textContent = `${found.length} of ${hosts.length} hosts`;
  };

  const open = () => {
    const host = document.getElementById(location.hash.slice(1));
    if (!host || !host.matches(".host")) return;
    if (host.hidden) {
      if (form) form.reset();
      all = true;
      show();
    }
    host.open = true;
    host.scrollIntoView();
  };

  if (form) {
    form.hidden = false;
    form.addEventListener("input", show);
    form.addEventListener("submit", (event) => event.preventDefault());
    document.addEventListener("keydown", (event) => {
      const typing = event.target instanceof Element && event.target.matches("input[type=search]");
      if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      form.elements.name.focus();
    });
  }
  more.firstElementChild.addEventListener("click", () => {
    const next = hosts.findIndex((node) => node.hidden);
    all = true;
    show();
    if (next >= 0) hosts[next].firstElementChild.focus();
  });
  const restore = [];
  window.addEventListener("beforeprint", () => {
    restore.push(all);
    all = true;
    show();
  });
  window.addEventListener("afterprint", () => {
    all = restore.pop() ?? all;
    show();
  });
  window.addEventListener("hashchange", open);
  show();
  open();
})();
