// Starts the program of a page (data-start) where a browser has what it needs, and says in one line where it has not.
// Written so that very old browsers can read it too.
(function () {
  var page = document.querySelector(".playground"), web = page.getAttribute("data-web");
  function say(line) {
    var place = document.getElementById("say");
    place.className = "wrong";
    place.textContent = line;
  }
  function lacks() {
    var names = ["fetch", "Promise", "ReadableStream", "AbortController", "TextDecoder",
      "TextEncoder", "MessageChannel", "Map", "Float32Array", "URL"];
    for (var i = 0; i < names.length; i++) if (!window[names[i]]) return names[i];
    if (!("noModule" in document.createElement("script"))) return "JavaScript modules";
    if (!String.prototype.replaceAll || !Array.prototype.at) return "the JavaScript of 2022";
    try { new RegExp("\\p{L}", "u"); } catch (error) { return "Unicode classes"; }
    return "";
  }
  var lacking = lacks();
  if (location.protocol === "file:") {
    say("A browser opens a model only from a server: type `gpt-nb play tales-en`, or " +
        "`python -m http.server` in the folder of the site. 模型只能由服务器给出。");
  } else if (lacking) {
    say("This browser is too old for this page: it lacks " + lacking + ". " +
        "本页需要新一些的 Chrome、Firefox、Safari 或 Edge。");
  } else {
    var script = document.createElement("script");
    script.type = "module";
    script.src = web + page.getAttribute("data-start");
    script.onerror = function () {
      say("A file of this page is missing: load the page anew. 网页文件缺失，请重新载入。");
    };
    document.head.appendChild(script);
  }
})();
