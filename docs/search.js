// A word with hyphens, such as top-p, is one word, as in conf.py.
var splitQuery = (query) =>
  (query.match(/[\p{Letter}\p{Number}_]+(-[\p{Letter}\p{Number}_]+)*/gu) || []).map((word) => word.replaceAll("-", ""));

// The words of a text by their stems, without the smallest ones.
const stems = (text) =>
  splitQuery(text.toLowerCase()).filter((word) => !stopwords.has(word)).map((word) => new Stemmer().stemWord(word));
const wanted = () => stems(new URLSearchParams(window.location.search).get("q") || "");
const holds = (heading) => wanted().length > 0 && wanted().every((word) => stems(heading).includes(word));
const headings = (docname) => {
  const number = Search._index.docnames.indexOf(docname);
  return Object.entries(Search._index.alltitles).filter(([, places]) => places.some(([file]) => file === number))
    .map(([title]) => title);
};

// Chapters stand before the reference: one who searches wants to read first. A block of "How do I" stands
// before a chapter that uses the word, behind one whose title it is.
var Scorer = {
  score: ([docname, title, anchor, descr, score]) => {
    const chapter = /^notebooks\/\d/.test(docname), page = /^(notebooks|start|zh|glossary)/.test(docname);
    const named = chapter && !anchor && holds(title) && stems(title).length === wanted().length;
    if (/howto/.test(docname)) return score + (headings(docname).some((heading) => holds(heading)) ? 2200 : 1999);
    return score + (named ? 2400 : chapter ? 2000 : page ? 1000 : 0);
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
