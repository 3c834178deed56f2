"""What needs the truth or asks how weak a captcha is: judging and auditing a run."""
