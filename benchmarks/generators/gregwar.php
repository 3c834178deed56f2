<?php
// Captchas of Gregwar's library: FOLDER COUNT ALPHABET LENGTH.
require_once '/usr/share/php/Gregwar/Captcha/autoload.php';
use Gregwar\Captcha\CaptchaBuilder;
use Gregwar\Captcha\PhraseBuilder;

[, $folder, $count, $alphabet, $length] = $argv;
mkdir("$folder/images", 0777, true);
$labels = "name,label\n";
for ($n = 0; $n < $count; $n++) {
    $captcha = new CaptchaBuilder(null, new PhraseBuilder((int) $length, $alphabet));
    $captcha->build(150, 40);
    $name = bin2hex(random_bytes(16)) . '.jpg';
    $captcha->save("$folder/images/$name", 90);
    $labels .= "$name,{$captcha->getPhrase()}\n";
}
file_put_contents("$folder/labels.csv", $labels);
