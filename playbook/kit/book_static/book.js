"use strict";

// Diagrams are drawn in the colours of the page, and again when those change. One in a folded cell is drawn when the
// cell is opened: before that it has no width.
(() => {
    let drawn = 0;

    async function draw(diagram) {
        const theme = document.documentElement.dataset.theme === "dark" ? "dark" : "neutral";
        if (diagram.dataset.theme === theme || diagram.closest("details:not([open])")) {
            return;
        }
        diagram.dataset.theme = theme;
        const source = diagram.querySelector("pre");
        mermaid.initialize({ startOnLoad: false, securityLevel: "strict", theme });
        const { svg } = await mermaid.render(`diagram-${(drawn += 1)}`, source.textContent);
        diagram.querySelector("svg")?.remove();
        diagram.insertAdjacentHTML("beforeend", svg);
        source.hidden = true;
    }

    let queue = Promise.resolve(); // one after the other: mermaid has one set of options

    function drawAll() {
        for (const diagram of document.querySelectorAll("div.diagram")) {
            queue = queue.then(() => draw(diagram));
        }
    }

    document.addEventListener("toggle", drawAll, true);
    new MutationObserver(drawAll).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    document.addEventListener("DOMContentLoaded", drawAll);
})();

// A browser lets no script read files: opened without a server, the search shows its hits without excerpts.
if (location.protocol === "file:") {
    DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}

// An entry of the index may stand at an empty place of the page. Sphinx finds no excerpt there, and fails with it.
if (typeof Search !== "undefined") {
    const excerpt = Search.makeSearchSummary;
    Search.makeSearchSummary = (page, words, anchor) =>
        excerpt(page, words, anchor) ?? excerpt(page, words) ?? document.createElement("p");
}
