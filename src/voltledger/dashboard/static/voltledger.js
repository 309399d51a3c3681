// Says so when the page stands still, and asks for nothing while nobody looks.
(() => {
  "use strict";
  const paused = document.getElementById("paused");
  const stand = (still) => { paused.hidden = !still; };
  document.addEventListener("htmx:error", () => stand(true));
  document.addEventListener("htmx:response:error", () => stand(true));
  document.addEventListener("htmx:after:swap", () => stand(false));
  document.addEventListener("htmx:config:request", (event) => {
    if (document.hidden) event.preventDefault();
  });
})();
