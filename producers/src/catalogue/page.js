// Shows the types that have every word of the search, in their name, topic, description or fields.
const search = document.getElementById("search");
if (search) {
  const entries = [...document.querySelectorAll("li[data-words]")];
  const nothing = document.getElementById("nothing");
  const show = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const entry of entries) entry.hidden = !words.every((word) => entry.dataset.words.includes(word));
    for (const section of document.querySelectorAll("section")) section.hidden = !section.querySelector("li:not([hidden])");
    nothing.hidden = entries.some((entry) => !entry.hidden);
  };
  search.hidden = false;
  search.addEventListener("input", show);
  show();
}
