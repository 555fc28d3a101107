// A word with hyphens, such as top-p, is one word, as in conf.py.
var splitQuery = (query) =>
  (query.match(/[\p{Letter}\p{Number}_]+(-[\p{Letter}\p{Number}_]+)*/gu) || []).map((word) => word.replaceAll("-", ""));

// Chapters stand before the reference: one who searches wants to read first. A block of "How do I" stands
// before a chapter that uses the word, behind one whose title it is.
var Scorer = {
  score: ([docname, title, anchor, descr, score]) => {
    const chapter = /^notebooks\/\d/.test(docname), page = /^(notebooks|start|zh|glossary)/.test(docname);
    return score + (/howto/.test(docname) ? 1999 : chapter ? 2000 : page ? 1000 : 0);
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
