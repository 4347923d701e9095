// How the search ranks what it finds: pages that explain and results first, the reference last.
var Scorer = {
  score: ([name, , anchor, , score]) => {
    const kind = name.startsWith("book/api/") || name === "genindex" ? 0.2 : name === "CHANGELOG" ? 0.3 : 1;
    return score * kind * (anchor ? 0.9 : 1);
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

// A page that is found by an entry of the index, and by its words, is one result.
if (typeof Search !== "undefined") {
  const perform = Search._performSearch;
  Search._performSearch = (...query) => {
    const seen = new Set();
    const pages = perform(...query).reverse().filter((result) => {  // the best one first
      if (result[2].startsWith("#index-")) result[2] = "";
      const place = `${result[0]}${result[2]}`;
      return !seen.has(place) && seen.add(place);
    });
    return pages.reverse();
  };
}

// What a result quotes: the words of a page, without its furniture and its code.
if (typeof Search !== "undefined") {
  Search.htmlToText = (text, anchor) => {
    const page = new DOMParser().parseFromString(text, "text/html");
    const article = page.querySelector("article") ?? page.body;
    article.querySelectorAll("script, style, svg, pre, table, summary, .headerlink, .cell_input, .page-facts, .take, .finding")
      .forEach((part) => part.remove());
    const place = anchor && anchor.startsWith("#") ? article.querySelector(`[id="${anchor.slice(1)}"]`) : null;
    return (place && place.textContent.trim() ? place : article).textContent;
  };
}
