// Starts the page where a browser has what it needs, and says in one line where it has not.
// Written so that very old browsers can read it too.
(function () {
  var page = document.querySelector(".training"), web = page.getAttribute("data-web");
  function say(line) {
    var place = document.getElementById("say");
    place.className = "wrong";
    place.textContent = line;
  }
  function lacking() {
    var names = ["fetch", "Promise", "MessageChannel", "Map", "Float32Array", "ResizeObserver"];
    for (var i = 0; i < names.length; i++) if (!window[names[i]]) return names[i];
    if (!("noModule" in document.createElement("script"))) return "JavaScript modules";
    return Array.prototype.at ? "" : "the JavaScript of 2022";
  }
  var lacks = lacking();
  if (location.protocol === "file:") {
    say("A browser opens the stories only from a server: type `python -m http.server` in this " +
        "folder. 请通过服务器打开本页。");
  } else if (lacks) {
    say("This browser is too old for this page: it lacks " + lacks + ". " +
        "软件太旧，打不开本页：缺少 " + lacks + "。");
  } else {
    var script = document.createElement("script");
    script.type = "module";
    script.src = web + "training.js";
    script.onerror = function () {
      say("A file of this page is missing: load the page anew. 网页文件缺失，请重新载入。");
    };
    document.head.appendChild(script);
  }
})();
