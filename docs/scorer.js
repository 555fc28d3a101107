// Chapters stand before the reference: one who searches wants to read first.
var Scorer = {
  score: ([docname, title, anchor, descr, score]) => {
    const chapter = /^(notebooks|start|zh)/.test(docname), words = docname === "glossary";
    return score + (chapter ? 100 : words ? 60 : 0);
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
