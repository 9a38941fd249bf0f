// The run page: the list of events keeps to its newest entries while a run goes on.
const MAX_EVENTS = 50;

document.addEventListener("k:live", ({ detail }) => {
  if (detail.type !== "prepend" || detail.data.target !== "run-events") return;
  const list = document.getElementById("run-events");
  while (list.children.length > MAX_EVENTS) list.lastElementChild.remove();
});
